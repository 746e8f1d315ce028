"""Borrowing the model of Forge, Neo or reForge: the same numbers as from the file, whatever a run has left."""

import gc
import weakref

import pytest
import torch
from host.forge import SHARED_OPTIONS, Forge, Predictor
from host.reforge import Reforge
from host.state import digest

from ldznet.errors import HostError
from ldznet.hosts.attention_probes import probe_attention
from ldznet.hosts.capture import capture
from ldznet.hosts.forge.host import ForgeHost, _additional_files
from ldznet.methods.attention import AttentionMethod
from ldznet.options import SegmentOptions
from ldznet.segmenter import Segmenter

PROMPTS = ["cat dog", "a (big) house " + 80 * "far "]
MODELS = {
    "sd1": {"family": "sd1"},
    "sd2": {"family": "sd2"},
    "sdxl": {"family": "sdxl"},
    "v": {"family": "sd1", "prediction": "v"},
    "inpainting": {"family": "sd1", "in_channels": 9},
}
IMAGE = torch.linspace(-1, 1, 3 * 64 * 128).reshape(1, 3, 64, 128)  # wider than high


@pytest.fixture
def forge(request, monkeypatch):
    """Return Forge, or Neo or reForge where a test asks for several."""
    kind = getattr(request, "param", "forge")
    if kind == "reforge":
        return Reforge(monkeypatch, **MODELS)
    return Forge(monkeypatch, neo=kind == "neo", **MODELS)


in_both = pytest.mark.parametrize("forge", ["forge", "neo"], indirect=True)
in_all = pytest.mark.parametrize("forge", ["forge", "neo", "reforge"], indirect=True)


def use(host, *, all_features=True):
    """Return all that a host computes, by name: latent, contexts, noise prediction, features and attention."""
    latent, context = host.encode_image(IMAGE), host.encode_prompt(PROMPTS)
    noise = torch.linspace(-2, 2, latent.numel()).reshape(latent.shape)
    noisy, timesteps = host.add_noise(latent, noise, torch.tensor([400])), torch.tensor([400])
    found = {"latent": latent, "tokens": context.tokens, "noisy latent": noisy}
    if context.pooled is not None:
        found["pooled"] = context.pooled
    with capture(host.feature_modules(), early_exit=False) as features:
        found["noise prediction"] = host.predict_noise(noisy, timesteps, context)
    found |= features
    modules = host.feature_modules()
    with probe_attention(modules, text=list(modules)[:2]) as probes:
        host.predict_noise(noisy, timesteps, context)
    return found | {f"attention {path}": torch.stack(maps) for path, maps in probes.text.items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def everything(forge):
    """Return a digest of every tensor and option that Forge has of its model."""
    engine, state = forge.engine, {}
    for label, patcher in patchers(forge).items():
        tensors = (*patcher.model.named_parameters(), *patcher.model.named_buffers())
        state |= {f"{label} {name}": digest(tensor) for name, tensor in tensors}
        state[f"{label} options"] = repr(patcher.model_options)
        state |= {f"{label} {name}": sorted(vars(module)) for name, module in patcher.model.named_modules()}
    state["clip skip"] = [each.clip_skip for each in engine.engines]
    state["chance"] = digest(torch.get_rng_state())
    return state


def patchers(forge):
    objects = forge.engine.forge_objects
    return {"unet": objects.unet, "clip": objects.clip.patcher, "vae": objects.vae.patcher}


# --- the numbers -----------------------------------------------------------------------------------------


@in_all
@pytest.mark.parametrize("name", MODELS)
def test_all_numbers_are_those_of_the_same_weights_from_a_file(forge, name):
    if forge.neo and name == "sd2":
        pytest.skip("Neo has no Stable Diffusion 2.x")
    forge.choose(f"{name}.safetensors")

    found = use(forge.make_host())

    expected = use(forge.hosts[f"{name}.safetensors"])
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert (found[key] - tensor).abs().max() <= 1e-5 * tensor.abs().max(), key


@in_all
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_they_are_the_same_bit_for_bit_before_and_after_the_first_generation(forge, name):
    forge.choose(f"{name}.safetensors")

    before = use(forge.make_host())
    forge.paint("a cat")

    assert same(use(forge.make_host()), before)


def test_the_first_generation_is_the_same_bit_for_bit_with_a_segmentation_before_it(monkeypatch):
    without = Forge(monkeypatch, sd1=MODELS["sd1"]).paint()
    forge = Forge(monkeypatch, sd1=MODELS["sd1"])

    use(forge.make_host())

    assert torch.equal(forge.paint(), without)


@in_all
def test_tensors_can_be_changed_by_the_caller(forge):
    host = forge.make_host()
    latent, context = host.encode_image(IMAGE), host.encode_prompt(PROMPTS)

    assert not latent.is_inference()
    assert not context.tokens.is_inference()
    assert not host.predict_noise(latent, torch.tensor([400]), context).is_inference()


def test_the_posterior_is_its_mean_and_no_random_number_is_drawn(forge):
    host, before = forge.make_host(), torch.get_rng_state()

    first = host.encode_image(IMAGE)
    sample = host.encode_image(IMAGE, torch.ones(1, 4, 8, 16))

    assert torch.equal(first, host.encode_image(IMAGE))
    assert not torch.equal(sample, first)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_the_model_is(forge):
    info = forge.make_host().info

    assert (info.name, info.family, info.prediction) == ("sd1.safetensors", "sd1", "noise")
    assert info.unet == forge.hosts["sd1.safetensors"].info.unet
    assert info.fingerprint == "97a4300f"  # with --no-hashing Forge has no digest of the whole file
    assert info.details["vae"] == "in the checkpoint"


def test_prompts_are_cut_at_75_tokens_and_counted(forge):
    host = forge.make_host()

    assert host.encode_prompt(PROMPTS).cut == (False, True)
    assert host.count_tokens(PROMPTS) == [2, 75]


# --- what a run leaves -----------------------------------------------------------------------------------


def lora(forge):
    """Change weights of UNet and text encoder, as the Lora extension does, by clones of the patchers."""
    objects, original = forge.engine.forge_objects, forge.engine.forge_objects_original
    objects.unet, clip = original.unet.clone(), original.clip.patcher.clone()
    objects.clip = type(original.clip)(cond_stage_model=original.clip.cond_stage_model, patcher=clip)
    for patcher, part in ((objects.unet, "attn2.to_v.weight"), (clip, "fc1.weight")):
        names = [name for name, _ in patcher.model.named_parameters() if name.endswith(part)]
        weights = dict(patcher.model.named_parameters())
        patcher.lora_patches = {name: torch.ones_like(weights[name]) for name in names}


def token_merging(forge):
    """Change the UNet by an option of a clone, as token merging, FreeU and ControlNet do."""
    objects = forge.engine.forge_objects
    objects.unet = forge.engine.forge_objects_original.unet.clone()
    objects.unet.model_options["transformer_options"]["patches"] = {"input_block_patch": [lambda x: x * 2]}


def object_patch(forge):
    """Replace the schedule and the kind of prediction in a clone, as extensions for other samplings do."""
    objects = forge.engine.forge_objects
    objects.unet = forge.engine.forge_objects_original.unet.clone()
    alphas_cumprod = objects.unet.model.predictor.alphas_cumprod
    objects.unet.object_patches["predictor"] = Predictor(alphas_cumprod / 2, "v")


def clip_skip(forge):
    for engine in forge.engine.engines:
        engine.clip_skip = 2


def emphasis(forge):
    for engine in forge.engine.engines:
        engine.emphasis = 1.5


def textual_inversion(forge):
    for engine in forge.engine.engines:
        engine.inversions["cat"] = torch.ones(64)


def stale_textual_inversion(forge):
    """Leave what a run leaves that broke off between its tokens and its text encoder."""
    for engine in forge.engine.engines:
        engine.embeddings.fixes = [[(0, torch.ones(64))], [(0, torch.ones(64))]]


def replaced_forward(forge):
    """Replace the forward of a layer, as tiled VAEs of extensions do."""
    encoder = forge.engine.forge_objects_original.vae.first_stage_model.encoder
    original = encoder.forward
    encoder.forward = lambda *given: original(*given) + 1


SEEN_BY_A_RUN = [lora, token_merging, clip_skip, emphasis, textual_inversion]


@in_all
@pytest.mark.parametrize("switch_on", [*SEEN_BY_A_RUN, stale_textual_inversion, replaced_forward])
def test_nothing_that_a_run_has_switched_on_changes_the_result_and_all_is_as_before_afterwards(forge, switch_on):
    host = forge.make_host()  # the session keeps it from run to run
    expected, plain = use(host), forge.paint("a cat")
    switch_on(forge)
    painted = forge.paint("a cat")
    before = everything(forge)

    found = use(host)

    assert same(found, expected)
    if switch_on in SEEN_BY_A_RUN:  # else the test would show nothing
        assert not torch.equal(painted, plain)
    assert torch.equal(forge.paint("a cat"), painted)
    assert everything(forge) == before


@in_both
def test_a_schedule_that_a_run_has_put_into_the_model_is_not_taken_for_the_models_own(forge):
    expected = use(forge.make_host())
    object_patch(forge)
    painted = forge.paint("a cat")
    before = everything(forge)

    found = use(forge.make_host())  # a new host describes the model while the patch is in it

    assert same(found, expected)
    assert torch.equal(forge.paint("a cat"), painted)
    assert everything(forge) == before


def test_the_options_that_all_callers_of_the_unet_share_stay_empty(forge):
    use(forge.make_host())

    assert SHARED_OPTIONS == {}


@torch.inference_mode()  # the tensors of the stand-in were made in it
def test_zero_terminal_snr_of_a_run_does_not_change_the_schedule(forge):
    expected = use(forge.make_host())
    predictor = forge.engine.forge_objects.unet.model.predictor
    predictor.sigmas = predictor.sigmas * 2

    assert same(use(forge.make_host()), expected)


# --- memory ----------------------------------------------------------------------------------------------


@in_all
def test_each_part_is_asked_for_before_it_runs_even_if_only_one_fits_on_the_device(forge):
    expected = use(forge.make_host())
    forge.memory.unload_all_models()
    forge.memory.most = 1
    forge.memory.log.clear()

    assert same(use(forge.make_host()), expected)

    loads = [entry for entry in forge.memory.log if entry[0] == "load"]
    assert loads == [
        ("load", "vae", 1000 * 64 * 128 * 4),
        ("load", "clip", 0),
        ("load", "unet", 100 * 2 * 8 * 16),
        ("load", "unet", 100 * 2 * 8 * 16),
    ]
    assert [entry.model.model for entry in forge.memory.current_loaded_models] == [patchers(forge)["unet"].model]


@in_both
def test_streamed_weights_are_dropped_after_each_pass_also_after_one_that_ends_early(forge):
    use(forge.make_host())

    assert forge.cleanups == (0 if forge.neo else 2)


def test_memory_is_freed_by_the_manager(forge):
    forge.make_host().clear_memory()

    assert forge.memory.emptied == 1


@torch.inference_mode()  # the tensors of the stand-in were made in it
def test_a_vae_that_overflows_in_half_precision_runs_in_float32_and_has_its_weights_back(forge):
    network = forge.engine.forge_objects.vae.first_stage_model
    network.half()
    before = {name: digest(tensor) for name, tensor in network.named_parameters()}
    network.encoder.register_forward_hook(
        lambda _m, _a, out: out * (1 if out.dtype == torch.float32 else torch.inf)
    )

    assert forge.make_host().encode_image(IMAGE).isfinite().all()

    assert {name: digest(tensor) for name, tensor in network.named_parameters()} == before


def test_a_broken_vae_is_an_error_in_words(forge):
    network = forge.engine.forge_objects.vae.first_stage_model
    network.encoder.register_forward_hook(lambda _m, _a, out: out * float("nan"))

    with pytest.raises(HostError, match=r"The VAE of sd1[.]safetensors gives values that are not numbers"):
        forge.make_host().encode_image(IMAGE)


# --- another model ---------------------------------------------------------------------------------------


@in_all
def test_a_reload_leaves_no_copy_of_the_old_model_alive_though_it_was_used(forge):
    host = forge.make_host()
    segmenter = Segmenter(host, AttentionMethod())
    segmenter.set_image(torch.zeros(64, 128, 3, dtype=torch.uint8).numpy(), SegmentOptions(resolution=64))
    segmenter.segment(["cat"], SegmentOptions(resolution=64))
    old = weakref.ref(forge.engine), weakref.ref(forge.engine.forge_objects.unet.model)

    forge.choose("v.safetensors")
    assert forge.engine
    gc.collect()

    assert [each() for each in old] == [None, None]
    assert segmenter.host is host


@in_both
def test_a_model_that_was_replaced_is_refused_before_anything_runs(forge):
    host = forge.make_host()
    assert host.is_current

    forge.choose("sd1.safetensors", ["/models/VAE/other.safetensors"])
    assert forge.engine

    assert not host.is_current
    with pytest.raises(HostError, match=r"has changed its model since sd1[.]safetensors was borrowed"):
        host.encode_image(IMAGE)
    with pytest.raises(HostError, match=r"has changed its model since sd1[.]safetensors was borrowed"):
        host.count_tokens(["cat"])


def test_files_of_vae_and_text_encoders_belong_to_the_fingerprint(forge):
    plain = forge.make_host().info.fingerprint
    forge.choose("sd1.safetensors", ["/models/VAE/other one's.safetensors"])

    info = forge.make_host().info

    assert info.fingerprint == f"{plain}+other one's.safetensors"
    assert info.details["vae"] == "in the checkpoint or in other one's.safetensors"


def test_the_files_are_read_from_forges_text_in_any_system():
    text = str({"checkpoint_info": {"filename": "C:\\a.ckpt"}, "additional_modules": ["C:\\vae\\b.pt", "/c.pt"]})

    assert _additional_files(text) == ["b.pt", "c.pt"]
    assert _additional_files("") == []


# --- refusals --------------------------------------------------------------------------------------------


def test_before_the_first_generation_there_is_no_model(forge):
    with pytest.raises(HostError, match="has no Stable Diffusion model loaded"):
        ForgeHost(None, forge.data.sd_model)


def refused(forge, change):
    change(forge.engine)
    with pytest.raises(HostError) as raised:
        forge.make_host()
    return str(raised.value)


ADVICE = " Load a plain or an inpainting checkpoint of Stable Diffusion 1.x, 2.x or XL."


def test_a_model_of_another_kind_is_refused_in_words(forge):
    def change(engine):
        engine.is_sd1, engine.__class__ = False, type("Flux", (type(engine),), {})

    assert refused(forge, change) == (
        "sd1.safetensors cannot be used for segmentation: it is of another kind (Flux)." + ADVICE
    )


@in_both
def test_a_flow_model_with_the_structure_of_xl_is_refused_in_words(forge):
    def change(engine):
        engine.forge_objects.unet.model.predictor.prediction_type = "const"

    assert refused(forge, change) == (
        'sd1.safetensors cannot be used for segmentation: it predicts "const", neither noise nor v.' + ADVICE
    )


def test_quantised_weights_are_refused_in_words(forge):
    def change(engine):
        engine.forge_objects.unet.model.storage_dtype = "nf4"

    assert refused(forge, change) == (
        "sd1.safetensors cannot be used for segmentation: its weights are quantised (nf4)." + ADVICE
    )


def test_a_refiner_is_refused_in_words(forge):
    forge.choose("sdxl.safetensors")

    assert "it may be a refiner" in refused(forge, lambda engine: vars(engine).pop("text_processing_engine_l"))


def test_an_instruction_model_is_refused_in_words(monkeypatch):
    forge = Forge(monkeypatch, edit={"family": "sd1", "in_channels": 8})

    with pytest.raises(HostError, match="its UNet reads 8 channels"):
        forge.make_host()
