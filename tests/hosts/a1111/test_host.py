"""The model of AUTOMATIC1111's webui, borrowed: the checkpoint's own result, and everything as it was.

Against a stand-in (tests/host); tests/live/test_host.py asks a real webui.
"""

import random
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from host.model import SIZES, VOCABULARY, WIDTH, word_ids
from host.state import changes
from host.webui import FEATURES, Webui, make_host
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from ldznet.errors import FeatureError, HostError, PromptError
from ldznet.heads.layers import timestep_embedding
from ldznet.hosts.a1111 import neutral
from ldznet.hosts.capture import capture
from ldznet.hosts.host import Context, Schedule
from ldznet.methods.attention import AttentionMethod, AttentionOptions
from ldznet.methods.learned_head import random_head
from ldznet.options import SegmentOptions
from ldznet.segmenter import Segmenter

FAMILIES = ("sd1", "sd2", "sdxl")
PROMPTS = ("a (big) cat", "[two] dogs AND a <lora:one:1> BREAK", "word " * 90)


@pytest.fixture
def webui(monkeypatch):
    return Webui(monkeypatch)


@pytest.fixture(params=FAMILIES)
def each(request, monkeypatch):
    return Webui(monkeypatch, request.param)


def use(host):
    """Every call that computes -> all that came out."""
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 3, 64, 128, generator=generator) * 2 - 1
    latent = host.encode_image(image)
    noise = torch.randn(latent.shape, generator=generator)
    context = host.encode_prompt(PROMPTS)
    timesteps = torch.tensor([100, 400, 999])
    noisy_latent = host.add_noise(latent, noise, timesteps)
    modules = host.feature_modules()
    with capture(modules, early_exit=False) as features:
        answer = host.predict_noise(noisy_latent, timesteps, context)
    with capture(dict(list(modules.items())[:1])) as first:
        host.predict_noise(noisy_latent, timesteps, context)
    pooled = [] if context.pooled is None else [context.pooled]
    sample = host.encode_image(image, noise)
    return [latent, sample, context.tokens, *pooled, noisy_latent, *features.values(), answer, *first.values()]


def same(found, expected):
    return len(found) == len(expected) and all(map(torch.equal, found, expected))


# --- the checkpoint's own result -------------------------------------------------------------------------


def test_the_calls_give_what_the_parts_of_the_model_give(webui):
    host, model = make_host(), webui.model
    image = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latent, noise = host.encode_image(image), torch.ones(1, 4, 8, 16)
    mean, log_variance = model.first_stage_model.quant_conv(model.first_stage_model.encoder(image)).chunk(2, 1)
    torch.testing.assert_close(latent, 0.18215 * mean)
    torch.testing.assert_close(host.encode_image(image, noise), 0.18215 * (mean + (0.5 * log_variance).exp()))

    context = host.encode_prompt(["a (big) cat"])
    ids = torch.full((1, 77), VOCABULARY - 1)
    ids[0, :4] = torch.tensor([VOCABULARY - 2, *word_ids("a (big) cat")])
    assert torch.equal(context.tokens, model.cond_stage_model.wrapped.transformer(ids).last_hidden_state)
    assert context.pooled is None

    timesteps = torch.tensor([400])
    noisy_latent = host.add_noise(latent, noise, timesteps)
    expected = Schedule(model.alphas_cumprod_original.double()).add_noise(latent, noise, timesteps)
    assert torch.equal(noisy_latent, expected)
    answer = host.predict_noise(noisy_latent, timesteps, context)
    assert torch.equal(answer, webui.unet(noisy_latent, timesteps, context.tokens))


def test_the_text_of_stable_diffusion_2_is_read_one_layer_early_and_padded_with_zeros(monkeypatch):
    webui = Webui(monkeypatch, "sd2")
    ids = torch.zeros(1, 77, dtype=torch.long)
    ids[0, :3] = torch.tensor([VOCABULARY - 2, *word_ids("cat"), VOCABULARY - 1])

    context = make_host().encode_prompt(["cat"])

    assert torch.equal(context.tokens, webui.model.cond_stage_model.wrapped.encode_with_transformer(ids))


def test_stable_diffusion_xl_reads_two_encoders_a_pooled_vector_and_the_pictures_size(monkeypatch):
    webui = Webui(monkeypatch, "sdxl")
    host, (first, second, *_) = make_host(), webui.model.conditioner.embedders
    ids = torch.full((1, 77), VOCABULARY - 1)
    ids[0, :2] = torch.tensor([VOCABULARY - 2, *word_ids("cat")])
    padded = ids * (torch.arange(77) < 3)

    context = host.encode_prompt(["cat"])

    answer = second.wrapped.encode_with_transformer(padded)
    assert torch.equal(context.tokens[..., :WIDTH], first.wrapped.transformer(ids, True).hidden_states[2])
    assert torch.equal(context.tokens[..., WIDTH:], answer["penultimate"])
    assert torch.equal(context.pooled, answer["pooled"])
    x, timesteps = torch.ones(1, 4, 8, 16), torch.tensor([400])
    sizes = timestep_embedding(torch.tensor([64, 128, 0, 0, 64, 128]), SIZES).flatten()[None]
    y = torch.cat([context.pooled, sizes], dim=1)
    assert torch.equal(host.predict_noise(x, timesteps, context), webui.unet(x, timesteps, context.tokens, y))


def test_a_model_of_v_gives_the_noise_that_its_answer_implies(webui):
    noise_host = make_host()
    context, x, timesteps = noise_host.encode_prompt(["cat"]), torch.ones(1, 4, 8, 16), torch.tensor([400])
    v = noise_host.predict_noise(x, timesteps, context)
    webui.model.parameterization = "v"
    host = make_host()
    kept = webui.model.alphas_cumprod[400]

    assert host.info.prediction == "v"
    found = host.predict_noise(x, timesteps, context)
    torch.testing.assert_close(found, kept.sqrt() * v + (1 - kept).sqrt() * x)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_inpainting_unet_is_shown_a_picture_that_is_masked_everywhere(monkeypatch, family):
    webui, seen = Webui(monkeypatch, family, in_channels=9), []
    webui.unet.input_blocks[0].register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    host = make_host()

    answer = host.predict_noise(torch.ones(1, 4, 8, 16), torch.tensor([400]), host.encode_prompt(["cat", "dog"]))

    assert tuple(answer.shape) == (2, 4, 8, 16)
    assert tuple(seen[0].shape) == (2, 9, 8, 16)
    assert (seen[0][:, :5] == 1).all()
    assert not seen[0][:, 5:].any()


def test_many_prompts_on_one_latent_give_what_each_gives_alone(each):
    host = make_host()
    context, x = host.encode_prompt(PROMPTS), torch.ones(1, 4, 8, 16)

    together = host.predict_noise(x, torch.tensor([400]).expand(3), context)

    for index in range(3):
        alone = host.predict_noise(x, torch.tensor([400]), context[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-5, rtol=1e-4)


# --- what is at work in the webui ------------------------------------------------------------------------


@pytest.mark.parametrize("feature", FEATURES)
def test_what_is_at_work_changes_no_result_and_is_not_changed(each, feature):
    expected, plain = use(make_host()), each.paint()
    each.switch_on(feature)
    before = each.state()

    found = use(make_host())

    assert same(found, expected)
    assert changes(before, each.state()) == []
    if (feature, each.model.is_sd1) not in {("clip skip", False)}:  # the others' encoders do not follow it
        assert not torch.equal(each.paint(), plain)


def test_everything_at_once_changes_no_result_and_is_not_changed(each):
    expected = use(make_host())
    for feature in FEATURES:
        each.switch_on(feature)
    before = each.state()

    found = use(make_host())

    assert same(found, expected)
    assert changes(before, each.state()) == []


@pytest.mark.parametrize("feature", FEATURES)
def test_everything_is_as_it_was_when_the_unet_raises_in_the_middle(each, feature):
    each.switch_on(feature)
    host = make_host()

    def fail(*_args):
        raise ZeroDivisionError

    context = host.encode_prompt(["cat"])
    each.unet.middle_block[1].register_forward_hook(fail)
    before = each.state()

    with pytest.raises(ZeroDivisionError):
        host.predict_noise(torch.ones(1, 4, 8, 16), torch.tensor([400]), context)

    assert changes(before, each.state()) == []


@pytest.mark.parametrize("feature", FEATURES)
def test_the_next_pictures_are_bit_for_bit_as_without_us(monkeypatch, feature):
    pictures = []
    for used in (False, True):
        with monkeypatch.context() as patch:
            webui = Webui(patch)
            webui.switch_on(feature)
            if used:
                use(make_host())
            first = webui.paint()
            webui.load_loras("two", "one")
            second = webui.paint()
            webui.load_loras()
            pictures.append([first, second, webui.paint()])

    assert same(*pictures)


def test_a_bias_that_a_lora_added_is_gone_meanwhile_and_then_back(webui):
    webui.switch_on("LoRA")
    layer = webui.unet.middle_block[1].transformer_blocks[0].attn1.to_q
    added = layer.bias

    with make_host().borrowed():
        assert layer.bias is None
        assert layer.network_current_names == ()

    assert layer.bias is added
    assert layer.network_current_names == (("one", 1.0),)


def test_a_switched_off_lora_extension_is_no_obstacle(webui, monkeypatch):
    expected = use(make_host())
    webui.switch_on("LoRA")
    webui.networks.loaded_networks.clear()
    before = webui.state()
    monkeypatch.delitem(sys.modules, "networks")

    assert same(use(make_host()), expected)
    assert changes(before, webui.state()) == []


def test_random_states_are_left_alone_also_by_an_autoencoder_that_draws(each):
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    before = each.state()

    use(make_host())

    assert changes(before, each.state()) == []


def test_nothing_keeps_a_graph(webui):
    webui.model.requires_grad_(True)

    assert not any(tensor.requires_grad for tensor in use(make_host()))


# --- one block around several calls ----------------------------------------------------------------------


def test_inside_a_block_the_model_is_changed_once(webui):
    webui.switch_on("token merging")
    host, ratios = make_host(), []
    apply = webui.sd_models.apply_token_merging
    webui.sd_models.apply_token_merging = lambda model, ratio: ratios.append(ratio) or apply(model, ratio)
    expected = use(host)
    assert ratios == 5 * [0, 0.5]  # five calls

    ratios.clear()
    before = webui.state()
    with host.borrowed():
        found = use(host)

    assert ratios == [0, 0.5]
    assert same(found, expected)
    assert changes(before, webui.state()) == []


def test_a_block_that_raises_leaves_everything_as_it_was(webui):
    for feature in FEATURES:
        webui.switch_on(feature)
    host, before = make_host(), webui.state()

    with pytest.raises(ZeroDivisionError), host.borrowed():
        1 / 0  # noqa: B018

    assert changes(before, webui.state()) == []
    use(host)  # and it can be used again


def test_two_hosts_can_hold_the_model_at_once(webui):
    for feature in FEATURES:
        webui.switch_on(feature)
    before, expected = webui.state(), use(make_host())

    with make_host().borrowed():
        assert same(use(make_host()), expected)

    assert changes(before, webui.state()) == []


@pytest.mark.parametrize("kind", ["attention", "learned"])
def test_a_segmenter_finds_the_same_with_and_without_a_block(webui, kind):
    host = make_host()
    method = AttentionMethod(AttentionOptions(gate=())) if kind == "attention" else random_head(host.info.unet)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    options = SegmentOptions(resolution=128)

    def maps():
        segmenter = Segmenter(host, method)
        segmenter.set_image(image, options)
        return segmenter.segment(["red (cat)", "dog"], options).maps

    expected = maps()
    for feature in FEATURES:
        webui.switch_on(feature)

    assert torch.equal(maps(), expected)
    with host.borrowed():
        assert torch.equal(maps(), expected)
    assert expected.std() > 0


# --- words -----------------------------------------------------------------------------------------------


def test_the_first_75_tokens_are_read_and_the_cut_is_told(each):
    host = make_host()
    texts = ["cat", "word " * 75, "word " * 76]

    context = host.encode_prompt(texts)

    assert context.tokens.shape[1] == 77
    assert context.cut == (False, False, True)
    assert torch.equal(context.tokens[1], context.tokens[2])
    assert host.count_tokens([*texts, ""]) == [1, 75, 75, 0]


def test_a_text_that_the_tokenizer_cannot_read_is_told(webui, monkeypatch):
    def fail(*_args, **_more):
        raise UnicodeError("surrogates not allowed")

    monkeypatch.setattr("host.model.word_ids", fail)

    with pytest.raises(PromptError, match=r"cannot read the prompts \(surrogates not allowed\)"):
        make_host().encode_prompt(["cat"])


# --- precision and memory --------------------------------------------------------------------------------


def halve(webui):
    webui.model.half()
    webui.devices.dtype_unet = webui.devices.dtype_vae = torch.float16


def test_half_precision_is_that_of_the_webui(each):
    expected = use(make_host())
    halve(each)
    before = each.state()

    host = make_host()
    found = use(host)

    assert host.dtype == torch.float16
    assert found[0].dtype == found[-2].dtype == torch.float16
    assert changes(before, each.state()) == []
    assert all((a - b).abs().max() < 0.1 for a, b in zip(found, expected, strict=True))


def test_an_autoencoder_that_overflows_is_run_again_in_float32_and_stays_as_it_was(webui):
    expected = make_host().encode_image(torch.ones(1, 3, 64, 64))
    halve(webui)
    webui.model.first_stage_model.encoder[2].loud = True
    before = webui.state()

    latent = make_host().encode_image(torch.ones(1, 3, 64, 64))

    assert latent.dtype == torch.float16
    assert (latent - expected).abs().max() < 1e-2
    assert changes(before, webui.state()) == []


def test_an_autoencoder_that_is_broken_is_an_error_and_stays_as_it_was(webui):
    webui.model.first_stage_model.quant_conv.weight[0] = float("nan")
    halve(webui)
    before = webui.state()

    with pytest.raises(HostError, match="VAE is broken: choose another one"):
        make_host().encode_image(torch.ones(1, 3, 64, 64))

    assert changes(before, webui.state()) == []


@pytest.mark.parametrize("low", [False, True], ids=["medvram", "lowvram"])
def test_where_memory_is_saved_the_parts_come_by_the_webuis_own_hooks(each, low):
    expected = use(make_host())
    each.save_memory(low=low)
    for feature in FEATURES:
        if feature != "ControlNet":  # it would call the UNet while another part is on the device
            each.switch_on(feature)
    before = each.state()

    found = use(make_host())

    assert same(found, expected)
    assert changes(before, each.state()) == []
    assert each.lowvram.module_in_gpu is None


def test_a_model_that_was_swapped_to_the_cpus_memory_comes_for_the_block_only():
    moves = []
    cpu, cuda = torch.device("cpu"), torch.device("cuda")

    def part(name, device):
        here = SimpleNamespace(device=device)
        return SimpleNamespace(parameters=lambda: iter([here]), to=lambda where: moves.append((name, where.type)))

    webui, model = SimpleNamespace(devices=SimpleNamespace(device="cuda:0")), SimpleNamespace(lowvram=False)
    with neutral._in_place(webui, model, [part("unet", cpu), part("vae", cuda), part("text", cpu)]):
        assert moves == [("unet", "cuda"), ("text", "cuda")]

    assert moves[2:] == [("text", "cpu"), ("unet", "cpu")]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("saved", ["", "medvram", "lowvram", "swapped"])
@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_gpu_the_result_is_that_of_the_cpu(monkeypatch, family, saved):
    webui = Webui(monkeypatch, family)
    expected = use(make_host())
    webui.devices.device = torch.device("cuda")
    if saved in {"medvram", "lowvram"}:
        webui.save_memory(low=saved == "lowvram")
        webui.unet.out.to("cuda")
    elif not saved:
        webui.model.to("cuda")
    before = webui.state()

    found = use(make_host())

    assert all((a.cpu() - b).abs().max() < 1e-3 for a, b in zip(found, expected, strict=True))
    assert changes(before, webui.state()) == []


def test_memory_is_given_back_by_the_webuis_own_way(webui):
    make_host().clear_memory()

    assert webui.devices.collected == 1


# --- what is loaded --------------------------------------------------------------------------------------


def test_the_model_is_described(each):
    host, unet = make_host(), each.unet
    info = host.info

    assert info.name == f"{info.family}.safetensors [0123456789]"
    assert getattr(each.model, f"is_{info.family}")
    assert info.prediction == "noise"
    assert info.unet == unet.unet_config
    assert info.fingerprint == "0123456789" * 6 + "abcd"
    assert host.device == torch.device("cpu")
    assert host.dtype == torch.float32


def test_features_have_the_original_paths_in_running_order(each):
    host, ran = make_host(), []
    modules = host.feature_modules()
    for path, module in modules.items():
        module.register_forward_hook(lambda *_args, path=path: ran.append(path))

    host.predict_noise(torch.ones(1, 4, 8, 16), torch.tensor([400]), host.encode_prompt(["cat"]))

    assert ran == list(modules) == each.unet.unet_config.transformer_paths()
    assert all(type(module).__name__ == "SpatialTransformer" for module in modules.values())


def test_marks_in_the_checkpoint_say_what_is_predicted_and_how_the_schedule_ends(webui, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}, path)
    plain = make_host()
    webui.model.sd_checkpoint_info.filename = str(path)

    marked = make_host()

    assert (plain.info.prediction, marked.info.prediction) == ("noise", "v")
    assert marked.info.details["prediction"] == "marked by the tensor v_pred in the file"
    assert plain.info.details["schedule"] == "by the webui"
    assert marked.schedule.alphas_cumprod[-1] == 0 < plain.schedule.alphas_cumprod[-1]


def test_another_vae_is_another_fingerprint(webui):
    webui.model.loaded_vae_file = "/models/VAE/clear.safetensors"

    assert make_host().info.fingerprint.endswith("abcd+clear.safetensors")


@pytest.mark.parametrize(("sha256", "short", "expected"), [(None, "01", "01"), (None, None, "0123456789")])
def test_without_a_digest_the_short_hash_is_the_fingerprint(webui, sha256, short, expected):
    webui.model.sd_checkpoint_info.sha256, webui.model.sd_checkpoint_info.shorthash = sha256, short

    assert make_host().info.fingerprint == expected


def test_a_given_model_is_borrowed_instead_of_the_shared_one(webui):
    webui.shared.sd_model = None

    host = make_host(webui.model)

    assert host.info.family == "sd1"
    assert not host.is_current


@pytest.mark.parametrize("name", ["sd_model_checkpoint", "sd_model_hash", "loaded_vae_file"])
def test_a_model_that_was_switched_is_noticed(webui, name):
    host = make_host()
    assert host.is_current

    setattr(webui.model, name, "/models/other.safetensors")

    assert not host.is_current
    with pytest.raises(HostError, match=r"has changed its model since sd1\.safetensors"):
        host.encode_prompt(["cat"])
    assert make_host().is_current


def test_no_model_is_an_error(webui):
    webui.shared.sd_model = None

    with pytest.raises(HostError, match="no Stable Diffusion model loaded"):
        make_host()


def test_weights_that_are_gone_are_an_error_and_everything_stays_as_it_was(webui):
    for feature in ("hypernetwork", "token merging", "tiling"):
        webui.switch_on(feature)
    host = make_host()
    webui.model.to("meta")

    with pytest.raises(HostError, match="the webui has unloaded it"):
        host.encode_prompt(["cat"])

    assert webui.model.applied_token_merged_ratio == 0.5
    assert len(webui.shared.loaded_hypernetworks) == 1
    assert webui.unet.input_blocks[0][0].padding_mode == "circular"


def spoil(model, how):
    """Make it a model of a kind that is not supported."""
    wrapper = model.model
    if how == "sd3":
        model.is_sd1, model.is_sd3, model.model_type = False, True, "SD3"
    elif how == "x0":
        model.parameterization = "x0"
    elif how == "unclip":
        wrapper.conditioning_key = "crossattn-adm"
    elif how == "bert":
        model.cond_stage_model.wrapped = nn.Linear(1, 1)
    elif how == "pruned":
        delattr(wrapper.diffusion_model.middle_block, "1")
    elif how == "heads":
        wrapper.diffusion_model.middle_block[1].transformer_blocks[0].attn1.heads = 2
    elif how == "plain":
        wrapper.diffusion_model = nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("sd3", r"another kind \(SD3\)"),
        ("x0", 'predicts "x0"'),
        ("unclip", 'conditioned by "crossattn-adm"'),
        ("bert", "text encoders are none"),
        ("pruned", "another structure"),
        ("heads", "differently wide heads"),
        ("plain", "none of the transformers"),
    ],
)
def test_other_kinds_of_models_are_refused(webui, how, text):
    spoil(webui.model, how)

    with pytest.raises(HostError, match=rf"sd1.safetensors \[0123456789\] cannot be used.*{text}.*Load a plain"):
        make_host()


@pytest.mark.parametrize("in_channels", [5, 7, 8])
def test_models_that_read_more_than_a_mask_are_refused(monkeypatch, in_channels):
    Webui(monkeypatch, in_channels=in_channels)

    with pytest.raises(HostError, match=f"reads {in_channels} channels"):
        make_host()


def test_a_refiner_is_refused(monkeypatch):
    webui = Webui(monkeypatch, "sdxl")
    webui.model.conditioner.embedders = webui.model.conditioner.embedders[1:]

    with pytest.raises(HostError, match="may be a refiner"):
        make_host()


def test_an_xl_model_with_other_numbers_beside_its_prompt_is_refused(monkeypatch):
    webui = Webui(monkeypatch, "sdxl")
    webui.unet.label_emb[0][0].in_features += 5
    host = make_host()

    with pytest.raises(HostError, match="wants 53 numbers in addition to its prompt"):
        host.predict_noise(torch.ones(1, 4, 8, 16), torch.tensor([400]), host.encode_prompt(["cat"]))


def test_a_unet_that_another_engine_replaces_in_its_own_way_is_told(webui):
    host = make_host()
    type(webui.unet).forward, kept = (lambda self, x, *_args, **_more: x), type(webui.unet).forward
    try:
        context = Context(torch.zeros(1, 77, WIDTH))
        with pytest.raises(FeatureError, match="Switch other extensions off"), capture(host.feature_modules()):
            host.predict_noise(torch.ones(1, 4, 8, 16), torch.tensor([400]), context)
    finally:
        type(webui.unet).forward = kept


def test_outside_a_webui_importing_is_harmless_and_using_is_an_error():
    code = (
        "from ldznet.webui.a1111_app import A1111App\nfrom ldznet.errors import HostError\n"
        "try:\n    A1111App().webui_modules()\nexcept HostError as error:\n    print(error)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("This does not run inside AUTOMATIC1111's webui (No module named 'modules')")
    assert "Use a checkpoint file" in done.stdout
