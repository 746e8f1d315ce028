"""Fixtures of the laboratory's tests."""

import signal

import pytest
import torch
from stand_in_art import stand_in_world
from stand_ins import write_tokenizer

from ldznet.research.scenes.icons import IconWorld


@pytest.fixture(scope="session")
def clipseg_folder(tmp_path_factory):
    """A small random CLIPSeg, as transformers writes it."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clipseg")
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
    config = CLIPSegConfig(
        text_config={
            **layers,
            "vocab_size": 1024,
            "bos_token_id": 1022,
            "eos_token_id": 1023,
            "projection_dim": 16,
        },
        vision_config={**layers, "image_size": 64, "patch_size": 16, "projection_dim": 16},
        projection_dim=16,
        reduce_dim=16,
        extract_layers=[1, 2, 3],
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    )
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture
def ctrl_c_works():
    """Let SIGINT interrupt: a shell's background job, in which these tests may run, has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def art(monkeypatch):
    """Let commands read the stand-in's art."""
    monkeypatch.setattr(IconWorld, "read", lambda _folder=None: stand_in_world())
