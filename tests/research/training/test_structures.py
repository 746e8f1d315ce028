"""Training for every structure of Stable Diffusion, from each kind of file, to a head that finds its model."""

import dataclasses

import pytest
from stand_ins import write_checkpoint, write_folder

from ldznet.__main__ import main
from ldznet.heads.head_file import read_head_info
from ldznet.hosts.diffusers.host import DiffusersHost
from ldznet.methods.choose import choose_method, find_heads

FAMILIES = {"sd1": "eps", "sd2": "v", "sdxl": "eps"}  # and what the file says that the model predicts
SHORT = (
    *("--steps", "1", "--batch", "1", "--size", "64", "--scenes", "1", "--rate", "1e-3", "--device", "cpu"),
    *("--log-every", "1", "--save-every", "1", "--validate-every", "1"),
)
RUNS = [  # each structure with each kind of head, and from each kind of file
    *(("sd1", "file", "ld-znet"), ("sd1", "folder", "znet"), ("sd1", "folder", "rgbnet")),
    *(("sd2", "folder", "ld-znet"), ("sd2", "file", "znet"), ("sd2", "folder", "rgbnet")),
    *(
        ("sdxl", "file", "ld-znet"),
        ("sdxl", "folder", "ld-znet"),
        ("sdxl", "file", "znet"),
        ("sdxl", "file", "rgbnet"),
    ),
]

pytestmark = pytest.mark.usefixtures("art")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """(family, kind of file) -> path."""
    root, found = tmp_path_factory.mktemp("models"), {}
    for family, predicted in FAMILIES.items():
        path, host, _ = write_checkpoint(root / family, family, parameterization=predicted)
        folder = root / f"{family}-folder"
        write_folder(folder, host, "v_prediction" if predicted == "v" else "epsilon")
        found |= {(family, "file"): path, (family, "folder"): folder}
    return found


def train(checkpoint, out, *more):
    return main(["train", "scenes", "--checkpoint", str(checkpoint), "--out", str(out), *SHORT, *more])


@pytest.mark.parametrize(("family", "form", "kind"), RUNS)
def test_a_head_is_trained_for_every_structure_and_kind_of_file(checkpoints, tmp_path, capsys, family, form, kind):
    checkpoint = checkpoints[family, form]

    assert train(checkpoint, tmp_path / "run", "--kind", kind) == 0

    unused = 4 if family == "sdxl" else 0  # its embedding of sizes, which the head has not
    assert f", {unused} of the UNet not used" in capsys.readouterr().out
    host = DiffusersHost.load(checkpoint)
    choice = choose_method("auto", host.info, find_heads([tmp_path / "run"]))
    assert (choice.method.name, choice.method.head.config.kind) == (kind, kind)
    info = read_head_info(tmp_path / "run" / "best.safetensors")
    assert info.source["step"] == 1
    assert info.config.unet == dataclasses.replace(host.info.unet, in_channels=4, out_channels=1)
    assert (tmp_path / "run" / "pictures" / "step-0000001.jpg").exists()
