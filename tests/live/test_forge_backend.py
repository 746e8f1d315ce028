"""Forge's own model code, and Neo's, on small checkpoints of every kind: the numbers are those of the file.

    FORGE_DIR=/path/to/forge FORGE_PYTHON=/path/to/its/python pytest tests/live/test_forge_backend.py

FORGE_DIR may be a Neo. No page and no server is started; forge_backend.py runs in Forge's environment.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from stand_ins import write_checkpoint

from ldznet.hosts.capture import capture
from ldznet.hosts.diffusers.host import DiffusersHost

WEBUI, PYTHON = os.environ.get("FORGE_DIR", ""), os.environ.get("FORGE_PYTHON", "python")
SCRIPT = Path(__file__).with_name("forge_backend.py")
PROMPTS = ["cat dog", "a (big) dog far"]

pytestmark = [pytest.mark.webui, pytest.mark.skipif(not WEBUI, reason="FORGE_DIR names no Forge")]

MODELS = {
    "sd1": ("sd1", {}),
    "sd2": ("sd2", {}),
    "sdxl": ("sdxl", {}),
    "inpainting": ("sd1", {"in_channels": 9}),
    "v": ("sd1", {"parameterization": "v"}),
}


def make_checkpoint(folder, family, **options):
    """Write a checkpoint whose text encoders have values of half precision, as Forge keeps them."""
    path, *_ = write_checkpoint(folder, family, **options)
    if family == "sdxl":  # Neo knows the scale of XL's latents by itself
        settings = path.with_suffix(".yaml")
        settings.write_text(settings.read_text().replace("0.18215", "0.13025"))
    state = load_file(path)
    text = [name for name in state if not name.startswith(("model.", "first_stage_model."))]
    save_file(state | {name: state[name].half().float() for name in text}, path)
    return path


def use(host):
    """Return all that a host computes, by name, as forge_backend.py does."""
    image = torch.linspace(-1, 1, 3 * 64 * 128).reshape(1, 3, 64, 128)
    latent, context = host.encode_image(image), host.encode_prompt(PROMPTS)
    noise = torch.linspace(-2, 2, latent.numel()).reshape(latent.shape)
    timesteps = torch.tensor([400])
    found = {"latent": latent, "tokens": context.tokens}
    if context.pooled is not None:
        found["pooled"] = context.pooled
    with capture(host.feature_modules(), early_exit=False) as features:
        noisy = host.add_noise(latent, noise, timesteps)
        found["noise prediction"] = host.predict_noise(noisy, timesteps, context)
    return {name: tensor.numpy() for name, tensor in (found | features).items()}


@pytest.mark.parametrize("name", MODELS)
def test_numbers_are_those_of_the_file_and_the_same_before_and_after_generations_and_with_a_lora(tmp_path, name):
    family, options = MODELS[name]
    if family == "sd2" and not (Path(WEBUI) / "modules" / "sd_hijack.py").exists():
        pytest.skip("Neo has no Stable Diffusion 2.x")
    path, out = make_checkpoint(tmp_path, family, **options), tmp_path / "out.npz"

    command = [PYTHON, str(SCRIPT), WEBUI, str(path), family, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    with np.load(out) as file:
        report = json.loads(str(file["report"]))
        rounds: dict[str, dict[str, np.ndarray]] = {}
        for key in set(file.files) - {"report"}:
            when, _, part = key.partition("/")
            rounds.setdefault(when, {})[part] = file[key]
    host = DiffusersHost.load(path)
    expected = use(host)
    worst = {
        part: float(np.abs(rounds["fresh"][part] - tensor).max() / np.abs(tensor).max())
        for part, tensor in expected.items()
    }
    print(f"\n{name}: largest difference {max(worst.values()):.1e} in {max(worst, key=worst.get)}")
    assert rounds["fresh"].keys() == expected.keys()
    assert max(worst.values()) <= 1e-5, worst
    for when in ("after a generation", "with a LoRA"):
        assert all(np.array_equal(rounds[when][part], rounds["fresh"][part]) for part in expected), when
    assert report == {
        "info": [host.info.family, host.info.prediction, repr(host.info.unet)],
        "tokens": host.count_tokens(PROMPTS),
        "plain": [True] * 3,
        "changed": [True] * 2,
        "lora is seen": True,
        "head in the list": [1, 0],
    }
