"""What reForge's model is, and when it is another; its numbers are tested in tests/hosts/forge/test_host.py."""

import pytest
import torch
from host.reforge import ModelType, Reforge

from ldznet.errors import HostError, PromptError
from ldznet.hosts.reforge.host import ReforgeHost
from ldznet.webui.reforge_app import ReforgeApp

ADVICE = " Load a plain or an inpainting checkpoint of Stable Diffusion 1.x, 2.x or XL."


@pytest.fixture
def reforge(monkeypatch):
    return Reforge(
        monkeypatch,
        sd1={"family": "sd1"},
        sd2={"family": "sd2"},
        sdxl={"family": "sdxl"},
        v={"family": "sd1", "prediction": "v"},
    )


@pytest.mark.parametrize(
    ("name", "family", "prediction"),
    [("sd1", "sd1", "noise"), ("sd2", "sd2", "noise"), ("sdxl", "sdxl", "noise"), ("v", "sd1", "v")],
)
def test_what_the_model_is(reforge, name, family, prediction):
    reforge.choose(f"{name}.safetensors")

    info = reforge.make_host().info

    assert (info.name, info.family, info.prediction) == (f"{name}.safetensors", family, prediction)
    assert info.unet == reforge.hosts[f"{name}.safetensors"].info.unet
    assert info.details["vae"] == "in the checkpoint"


def test_a_configuration_that_says_v_counts(reforge):
    reforge.engine.parameterization = "v"

    assert reforge.make_host().info.prediction == "v"


def test_downcast_alphas_of_a_run_do_not_change_the_schedule(reforge):
    model = reforge.engine
    assert model.alphas_cumprod.dtype == torch.float16

    assert torch.equal(reforge.make_host().schedule.alphas_cumprod.float(), model.alphas_cumprod_original)


def test_a_vae_that_is_loaded_into_the_same_model_makes_it_another_one(reforge):
    host, plain = reforge.make_host(), reforge.make_host().info.fingerprint
    assert host.is_current

    reforge.engine.loaded_vae_file = "/models/VAE/other.safetensors"

    assert not host.is_current
    with pytest.raises(HostError, match=r"has changed its model since sd1[.]safetensors was borrowed"):
        host.encode_prompt(["cat"])
    info = reforge.make_host().info
    assert (info.fingerprint, info.details["vae"]) == (f"{plain}+other.safetensors", "other.safetensors")


def test_without_a_model_the_error_says_so():
    with pytest.raises(HostError, match="has no Stable Diffusion model loaded"):
        ReforgeHost(None, None)


def refused(reforge, change):
    change(reforge.engine)
    with pytest.raises(HostError) as raised:
        reforge.make_host()
    return str(raised.value)


def test_a_flow_model_is_refused_in_words(reforge):
    def change(model):
        model.forge_objects.unet.model.model_type = ModelType.FLOW

    assert refused(reforge, change) == (
        'sd1.safetensors cannot be used for segmentation: it predicts "FLOW", neither noise nor v.' + ADVICE
    )


def test_a_refiner_is_refused_in_words(reforge):
    reforge.choose("sdxl.safetensors")

    assert "it may be a refiner" in refused(reforge, lambda model: model.conditioner.embedders.pop(0))


# --- the door --------------------------------------------------------------------------------------------


def test_work_runs_in_the_main_thread_and_its_errors_are_raised(reforge):
    import threading

    def work():
        raise PromptError(f"in the main thread: {threading.current_thread() is threading.main_thread()}")

    def ask():
        with pytest.raises(PromptError) as raised:
            ReforgeApp().run_exclusively(work)
        texts.append(str(raised.value))

    texts = []
    page = threading.Thread(target=ask)
    page.start()
    reforge.main_thread.work_off()
    page.join(10)

    assert texts == ["in the main thread: True"]


def test_the_model_that_the_page_names_is_loaded(reforge):
    app = ReforgeApp()
    first = app.load_model()
    reforge.choose("sdxl.safetensors")

    second = app.load_model()

    assert (first.sd_model_checkpoint, second.sd_model_checkpoint) == (
        "/models/sd1.safetensors",
        "/models/sdxl.safetensors",
    )
    assert app.current_model() is second


def test_a_checkpoint_that_cannot_be_loaded_is_an_error_in_words(reforge):
    reforge.choose("broken.safetensors")

    with pytest.raises(HostError, match=r"could not load its checkpoint \(Could not detect model type\)"):
        ReforgeApp().load_model()


def test_a_head_is_moved_by_the_memory_manager(reforge):
    carrier = ReforgeApp().carrier(torch.nn.Linear(2, 2), torch.device("cpu"))

    with carrier.on_device() as device:
        assert device == torch.device("cpu")
        assert [entry[1] for entry in reforge.memory.log] == ["head"]
    carrier.put_away()

    assert reforge.memory.current_loaded_models == []
