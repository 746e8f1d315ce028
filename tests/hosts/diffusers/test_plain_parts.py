"""UNet, autoencoder, text encoder and tokenizer give what diffusers and transformers give."""

import json
import random
import subprocess
import sys
import unicodedata

import pytest
import torch
from embedded_scenes import README_IMAGE
from oracles import diffusers_unet, diffusers_vae, transformers_text
from stand_ins import write_tokenizer
from transformers import CLIPTokenizer

from ldznet.errors import HostError
from ldznet.hosts.capture import capture
from ldznet.hosts.diffusers.host import DiffusersHost
from ldznet.hosts.diffusers.random_weights import random_host
from ldznet.hosts.diffusers.text import text_config
from ldznet.hosts.diffusers.tokenizers import read_tokenizer
from ldznet.hosts.diffusers.vae import Vae
from ldznet.methods.load import EMBEDDED

FAMILIES = ("sd1", "sd2", "sdxl")


def close(ours, theirs):
    """Compare within 1e-5 of the largest value."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())


def shuffled(module):
    """Move every weight away from where it starts, norms and biases too."""
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return module


# --- networks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*FAMILIES, "inpainting"])
@torch.no_grad()
def test_the_unet_gives_the_features_and_the_answer_of_diffusers(family):
    host = random_host("sd1" if family == "inpainting" else family, in_channels=9 if family == "inpainting" else 4)
    theirs = diffusers_unet(shuffled(host.unet))
    latent = torch.randn(2, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    context, timesteps = host.encode_prompt(["a cat", "dogs"]), torch.tensor([400, 17])
    more = {}
    if family == "sdxl":
        sizes = torch.tensor([[64.0, 128.0, 0.0, 0.0, 64.0, 128.0]]).expand(2, -1)
        more["added_cond_kwargs"] = {"text_embeds": context.pooled, "time_ids": sizes}
    blocks = [*theirs.down_blocks, theirs.mid_block, *theirs.up_blocks]
    attentions = [layer for block in blocks for layer in getattr(block, "attentions", [])]
    their_modules = dict(zip(host.info.unet.transformer_paths(), attentions, strict=True))

    with capture(host.feature_modules(), early_exit=False) as features:
        answer = host.predict_noise(latent, timesteps, context)
    with capture(their_modules, early_exit=False) as expected:
        their_answer = theirs(host._with_mask(latent), timesteps, context.tokens, **more).sample

    assert list(features) == host.info.unet.transformer_paths()
    for path in features:
        close(features[path], expected[path])
    close(answer, their_answer)


@pytest.mark.parametrize("blocks", [0, 1, 2])
@torch.no_grad()
def test_the_autoencoder_encodes_and_decodes_as_that_of_diffusers(blocks):
    widths = (64, 64, 64) if blocks == 0 else (32, 64, 96)
    vae = shuffled(Vae(widths, blocks, 4, 0.18215)).eval()
    theirs = diffusers_vae(vae)
    image = torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1

    ours, expected = vae.encode(image), theirs.encode(image).latent_dist

    assert ours.mean.shape == (2, 4, 8, 16)
    close(ours.mean, expected.mean)
    close(ours.std, expected.std)
    close(vae.decode(ours.mean), theirs.decode(expected.mean).sample)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_text_encoders_give_the_states_of_transformers(family):
    for encoder in random_host(family).text:
        theirs = transformers_text(shuffled(encoder.model))
        ids, _ = encoder.tokenize(["a cat", "the red dog on the left", "", "word " * 100])

        ours, expected = encoder.model(ids), theirs(ids, output_hidden_states=True)

        close(ours.last, expected.last_hidden_state)
        close(ours.penultimate, expected.hidden_states[-2])
        if encoder.model.config.projection:
            close(ours.pooled, expected.text_embeds)
        else:
            assert ours.pooled is None


def test_a_config_of_a_text_encoder_with_another_activation_is_refused():
    assert text_config({"hidden_act": "gelu", "hidden_size": 8}).quick_gelu is False
    assert text_config({"num_hidden_layers": 3, "projection_dim": 9}, projected=True).projection == 9
    with pytest.raises(HostError, match=r'asks for "relu", but CLIP has "quick_gelu" or "gelu"'):
        text_config({"hidden_act": "relu"})


# --- tokenizer ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["stand-in", "embedded"])
def tokenizers(request, tmp_path_factory):
    """Our tokenizer and that of transformers, for the same files."""
    if request.param == "embedded":
        folder = EMBEDDED.with_suffix("")
    else:
        folder = tmp_path_factory.mktemp("tokenizer")
        write_tokenizer(folder)
    return read_tokenizer(folder), CLIPTokenizer.from_pretrained(folder)


def their_ids(tokenizer, text):
    return tokenizer(text, truncation=False, verbose=False)["input_ids"][1:-1]


PHRASES = [
    "",
    " ",
    "A  photograph\tof\n\na bucket ",
    "the dog's bowl, the cats' bowl; don't, I'll, you'VE, we're, 'tis, it'd",
    "3 of 12 dogs, ½ a pie, Ⅷ, x², ٣",
    "((red)) [car] <lora:x:1> a_b--c...!? #1 @you 100%",
    "<|endoftext|> a <|startoftext|>cat<|endoftext|>",
    "ÀÉÎÕÜ straße ŁÓDŹ e\u0301 \u1e9b\u0323 ﬁ ǅ İstanbul ıI ΣΑΣ ς",
    "猫と犬 고양이 кошка γάτα חתול قطة बिल्ली แมว",
    "🪣 👩‍👩‍👧 ❤️ 🏳️‍🌈 🇩🇪 a🐶b",
    "no\u00a0break\u2003em\u3000wide\u200bzero\u00adsoft\ufefffirst\x1cgroup\x85next\x00nul",
    "x" * 200,
    "cat " * 74 + "dog",
    "cat " * 75 + "dog",
]


@pytest.mark.parametrize("text", PHRASES)
def test_a_text_has_the_ids_of_transformers(tokenizers, text):
    ours, theirs = tokenizers

    assert ours.encode(text) == their_ids(theirs, text)


def test_texts_of_random_characters_have_the_ids_of_transformers(tokenizers):
    ours, theirs = tokenizers
    generator = random.Random(0)
    letters = "".join(PHRASES)

    for _ in range(300):
        text = "".join(generator.choice(letters) for _ in range(generator.randint(1, 40)))
        assert ours.encode(text) == their_ids(theirs, text), repr(text)


def test_every_kind_of_character_is_split_as_transformers_splits_it(tokenizers):
    ours, theirs = tokenizers
    # Every 17th character that this Python knows, and all spaces and control characters.
    points = [*range(0x300), *range(0x2000, 0x2070), 0x1680, 0x3000, *range(0x300, 0x20000, 17)]
    texts = [f"a{chr(n)}b {chr(n)}1!{chr(n)}" for n in points if unicodedata.category(chr(n)) not in ("Cn", "Cs")]

    different = [text for text in texts if ours.encode(text) != their_ids(theirs, text)]

    assert different == []


def test_ids_are_cut_marked_and_padded_as_those_of_transformers(tokenizers):
    ours, theirs = tokenizers

    ids, cut = ours(PHRASES)

    expected = theirs(PHRASES, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    assert torch.equal(ids, expected["input_ids"])
    assert cut == tuple(len(their_ids(theirs, text)) > 75 for text in PHRASES)
    assert set(cut) == {False, True}


def test_a_tokenizer_in_one_file_is_read_in_both_of_its_forms(tmp_path):
    write_tokenizer(tmp_path / "two")
    expected = read_tokenizer(tmp_path / "two")
    ids = json.loads((tmp_path / "two" / "vocab.json").read_text())
    lines = (tmp_path / "two" / "merges.txt").read_text().splitlines()[1:]
    for form, merges in (("old", lines), ("new", [line.split() for line in lines])):
        (tmp_path / form).mkdir()
        (tmp_path / form / "tokenizer.json").write_text(json.dumps({"model": {"vocab": ids, "merges": merges}}))

        assert read_tokenizer(tmp_path / form).encode("cat doggy") == expected.encode("cat doggy")
    assert expected.encode("cat dog") == [513, 515]


def test_an_exclamation_mark_is_a_word_also_where_it_pads(tmp_path):
    write_tokenizer(tmp_path)
    tokenizer = read_tokenizer(tmp_path).padded_with("!")

    ids, _ = tokenizer(["cat!"])

    # "!" with the mark of a word's end has the id 256; without it, as padding, 0.
    assert ids[0, :5].tolist() == [1022, 513, 256, 1023, 0]


# --- imports -----------------------------------------------------------------------------------------

SEGMENT = """
import sys
from ldznet.__main__ import main
code = main(["segment", sys.argv[1], "bucket", "--out", sys.argv[2]])
loaded = {name.partition(".")[0] for name in sys.modules}
heavy = {"diffusers", "transformers", "tokenizers", "huggingface_hub", "gradio", "scipy", "sympy", "accelerate"}
print(code, sorted(loaded & heavy), "torch._dynamo" in sys.modules)
"""


def test_segment_imports_no_library_that_takes_long(tmp_path):
    command = [sys.executable, "-c", SEGMENT, str(README_IMAGE), str(tmp_path / "out")]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "0 [] False"


def test_the_embedded_model_gives_the_answer_of_diffusers_and_transformers():
    host = DiffusersHost.load(EMBEDDED)
    image = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(1)) * 2 - 1
    text = host.text[0]
    ids, _ = text.tokenize(["a red balloon"])

    latent, context = host.encode_image(image), host.encode_prompt(["a red balloon"])
    answer = host.predict_noise(latent, torch.tensor([400]), context)

    with torch.no_grad():
        expected = diffusers_vae(host.vae).encode(image).latent_dist.mean * host.vae.scale
        states = transformers_text(text.model)(ids).last_hidden_state
        their_answer = diffusers_unet(host.unet)(expected, torch.tensor([400]), states).sample
    close(latent, expected)
    close(context.tokens, states)
    close(answer, their_answer)
