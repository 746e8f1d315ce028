"""The Stable Diffusion model: loaded from any layout, read exactly, left as it was."""

import random
import threading

import numpy as np
import pytest
import torch
from conftest import CASES, features_of
from oracles import diffusers_unet
from safetensors.torch import save_file
from stand_ins import write_checkpoint, write_folder, write_tokenizer
from torch import nn

from ldznet.errors import CheckpointError, FeatureError, HeadError, HostError
from ldznet.heads.layers import timestep_embedding
from ldznet.heads.unet import UNetConfig
from ldznet.heads.weight_files import TensorFile
from ldznet.hosts.capture import capture
from ldznet.hosts.diffusers import parts, random_weights, single_file, tokenizers
from ldznet.hosts.diffusers.host import DiffusersHost
from ldznet.hosts.diffusers.model_files import unet_state
from ldznet.hosts.diffusers.random_weights import random_host
from ldznet.hosts.host import Context, HostInfo, Schedule, require_fit
from ldznet.methods.learned_head import random_head

NEEDED = ("input_blocks.8.1", "middle_block.1", "output_blocks.3.1", "output_blocks.4.1", "output_blocks.5.1")
FAMILIES = ("sd1", "sd2", "sdxl")


def a_pass(host, prompts=("a cat",), seed=0):
    """Arguments of one UNet pass."""
    generator = torch.Generator().manual_seed(seed)
    noisy_latent = torch.randn(1, 4, 8, 16, generator=generator)
    return noisy_latent, torch.full((len(prompts),), 400), host.encode_prompt(prompts)


def needed(host):
    modules = host.feature_modules()
    return {path: modules[path] for path in NEEDED}


# --- parity with the original UNet -------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded_host(small_unet_state, host):
    """The recorded Stable Diffusion UNet inside a host."""
    prefix = "model.diffusion_model."
    state = {prefix + name: tensor for name, tensor in small_unet_state.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    file = TensorFile("recorded", shapes, state.__getitem__, {})
    structure = UNetConfig(model_channels=32, heads=4, context_width=64)
    unet = parts.build_unet(file, structure)
    info = HostInfo("recorded", "sd1", "noise", structure)
    return DiffusersHost(info, unet, host.vae, host.text, Schedule.scaled_linear())


@pytest.mark.parametrize("name", CASES)
def test_the_unet_gives_the_same_sixteen_features_in_the_same_order(
    recorded_host, recorded, recorded_moments, name
):
    case = recorded[name]
    with capture(recorded_host.feature_modules(), early_exit=False) as features:
        found = recorded_host.predict_noise(case["z_noisy"], case["t"], Context(case["c"]))

    assert list(recorded_host.feature_modules()) == recorded_moments[name]["features"]
    for path, expected in features_of(case).items():
        assert (features[path] - expected).abs().max() < 1e-5, path
    for path, (shape, mean, std, *_rest) in zip(
        recorded_moments[name]["features"], recorded_moments[name]["stats"], strict=True
    ):
        assert list(features[path].shape) == shape
        assert features[path].mean().item() == pytest.approx(mean, abs=1e-5)
        assert features[path].std().item() == pytest.approx(std, abs=1e-5)
    assert (found - case["sd_out"]).abs().max() < 3e-5


@pytest.mark.parametrize("name", CASES)
def test_noise_is_added_by_the_recorded_schedule(recorded_host, recorded, name):
    case = recorded[name]

    found = recorded_host.add_noise(case["z"], case["noise"], case["t"])

    assert (found - case["z_noisy"]).abs().max() < 1e-6


def test_the_schedule_has_the_published_levels():
    kept = Schedule.scaled_linear().alphas_cumprod

    for timestep, signal, level in (
        (300, 0.768441, 0.639921),
        (400, 0.651524, 0.758628),
        (499, 0.526944, 0.849900),
    ):
        assert kept[timestep].sqrt().item() == pytest.approx(signal, abs=1e-6)
        assert (1 - kept[timestep]).sqrt().item() == pytest.approx(level, abs=1e-6)


# --- capture -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_early_exit_gives_the_same_features_bit_for_bit(family):
    host = random_host(family)
    modules = dict(list(host.feature_modules().items())[2:7])
    with capture(modules, early_exit=False) as whole:
        host.predict_noise(*a_pass(host))

    with capture(modules) as features:
        host.predict_noise(*a_pass(host))

    assert list(features) == list(modules)
    assert all(torch.equal(features[path], whole[path]) for path in modules)


def test_early_exit_runs_nothing_behind_the_last_needed_transformer(host):
    ran = []
    hooks = [block.register_forward_hook(lambda *_: ran.append(1)) for block in host.unet.output_blocks[6:]]
    hooks.append(host.unet.output_blocks[5][2].register_forward_hook(lambda *_: ran.append(2)))

    with capture(needed(host)):
        host.predict_noise(*a_pass(host))
    assert ran == []

    host.predict_noise(*a_pass(host))
    assert ran == [2, 1, 1, 1, 1, 1, 1]
    for hook in hooks:
        hook.remove()


def test_the_features_stand_before_the_upsampling_of_their_block(host):
    with capture(needed(host)) as features:
        host.predict_noise(*a_pass(host))

    assert tuple(features["output_blocks.5.1"].shape[2:]) == (2, 4)
    assert tuple(features["middle_block.1"].shape[2:]) == (1, 2)


def state_of(host):
    """All that a pass must leave alone."""
    model = [host.unet, host.vae, *(encoder.model for encoder in host.text)]
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), m.training, m.__dict__.get("forward"))
        for module in model
        for m in module.modules()
    ]
    weights = [(p.data_ptr(), p.dtype, p.device, p.double().sum().item()) for m in model for p in m.parameters()]
    chance = (torch.get_rng_state().tolist(), str(np.random.get_state()), str(random.getstate()))
    return hooks, weights, chance, torch.is_grad_enabled()


def test_model_and_random_states_are_as_before(host):
    before = state_of(host)

    latent = host.encode_image(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    with capture(needed(host)) as features:
        host.predict_noise(latent, torch.tensor([400]), host.encode_prompt(["cat"]))

    assert state_of(host) == before
    assert not any(feature.requires_grad for feature in features.values())


def test_model_and_random_states_are_as_before_when_the_unet_raises_in_the_middle(host):
    before = state_of(host)

    def fail(*_args):
        raise ZeroDivisionError

    fault = host.unet.middle_block[2].register_forward_hook(fail)
    with pytest.raises(ZeroDivisionError), capture(needed(host)) as features:
        host.predict_noise(*a_pass(host))
    fault.remove()

    assert list(features) == list(NEEDED[:2])
    assert state_of(host) == before
    with capture(needed(host)) as features:
        host.predict_noise(*a_pass(host))
    assert list(features) == list(NEEDED)


def test_a_capture_sees_its_own_thread_only_and_stops_no_other(host):
    with capture(needed(host)) as alone:
        host.predict_noise(*a_pass(host))
    whole = host.predict_noise(*a_pass(host, seed=1))
    answers = []
    other = threading.Thread(target=lambda: answers.append(host.predict_noise(*a_pass(host, seed=1))))

    with capture(needed(host)) as features:
        other.start()
        other.join()
        assert features == {}
        host.predict_noise(*a_pass(host))

    assert torch.equal(answers[0], whole)
    assert all(torch.equal(features[path], alone[path]) for path in NEEDED)


def test_capture_removes_its_hooks_when_the_block_raises():
    block = nn.Linear(2, 2)

    with pytest.raises(ZeroDivisionError), capture({"block": block}) as features:
        raise ZeroDivisionError
    block(torch.zeros(1, 2))

    assert features == {}


def test_nested_captures_each_get_their_own_features(host):
    modules = host.feature_modules()
    last = {"output_blocks.8.1": modules["output_blocks.8.1"]}
    early = {"input_blocks.2.1": modules["input_blocks.2.1"]}
    for outer, inner in ((last, early), (early, last), (early, early)):
        with capture(outer) as outside, capture(inner) as inside:
            host.predict_noise(*a_pass(host))

        assert list(outside) == list(outer)
        assert list(inside) == list(inner)


def test_an_inner_capture_inside_a_whole_pass_does_not_cut_it_short(host):
    with capture(host.feature_modules(), early_exit=False) as everything, capture(needed(host)) as features:
        host.predict_noise(*a_pass(host))

    assert list(features) == list(NEEDED)
    assert len(everything) == 16


def test_capture_can_be_used_again_and_again(host):
    first = None
    for _ in range(3):
        with capture(needed(host)) as features:
            host.predict_noise(*a_pass(host))
        first = first or features
        assert all(torch.equal(features[path], first[path]) for path in NEEDED)


def test_layers_that_never_ran_are_named():
    ran, silent = nn.Linear(1, 1), nn.Linear(1, 1)

    with (
        pytest.raises(
            FeatureError, match=r"1 of 2 layers were never called, first silent.*Switch other extensions"
        ),
        capture({"ran": ran, "silent": silent}),
    ):
        ran(torch.zeros(1, 1))


# --- what a host computes ----------------------------------------------------------------------------


def test_a_latent_is_the_posteriors_mean_or_a_sample_of_it(host):
    pixels = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(1)) * 2 - 1
    posterior = host.vae.encode(pixels)
    noise = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(2))

    torch.testing.assert_close(host.encode_image(pixels), 0.18215 * posterior.mean)
    torch.testing.assert_close(
        host.encode_image(pixels, noise), 0.18215 * (posterior.mean + posterior.std * noise)
    )


def test_a_vae_that_overflows_is_run_again_in_float32_and_stays_as_it_was(host, monkeypatch):
    calls = []
    plain = host._posterior

    def overflowing(image, dtype):
        calls.append(dtype)
        posterior = plain(image, dtype)
        if len(calls) == 1:
            posterior.mean = posterior.mean * float("nan")
        return posterior

    monkeypatch.setattr(host, "_posterior", overflowing)
    latent = host.encode_image(torch.zeros(1, 3, 64, 64))

    assert len(calls) == 2
    assert latent.isfinite().all()

    monkeypatch.setattr(
        host,
        "_posterior",
        lambda image, _dtype: setattr(p := plain(image, torch.float32), "mean", p.mean / 0) or p,
    )
    with pytest.raises(HostError, match="VAE is broken"):
        host.encode_image(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("family", FAMILIES)
def test_many_prompts_on_one_latent_give_what_each_gives_alone(family):
    host = random_host(family)
    latent, timesteps, context = a_pass(host, ("a cat", "two dogs"))

    both = host.predict_noise(latent, timesteps, context)

    for index in range(2):
        alone = host.predict_noise(latent, timesteps[:1], context[index : index + 1])
        torch.testing.assert_close(both[index : index + 1], alone, atol=1e-5, rtol=1e-4)


def test_a_model_of_v_gives_the_noise_that_its_answer_implies():
    noise_host, v_host = random_host(), random_host(prediction="v")
    latent, timesteps, context = a_pass(noise_host)
    kept = Schedule.scaled_linear().alphas_cumprod[400].item()

    v = noise_host.predict_noise(latent, timesteps, context)

    expected = kept**0.5 * v + (1 - kept) ** 0.5 * latent
    torch.testing.assert_close(v_host.predict_noise(latent, timesteps, context), expected)


def test_an_inpainting_unet_gets_an_image_that_is_masked_everywhere():
    host = random_host(in_channels=9)
    seen = []
    hook = host.unet.input_blocks[0][0].register_forward_pre_hook(lambda _m, args: seen.append(args[0]))

    answer = host.predict_noise(*a_pass(host))
    hook.remove()

    assert tuple(answer.shape) == (1, 4, 8, 16)
    assert tuple(seen[0].shape) == (1, 9, 8, 16)
    assert (seen[0][:, 4] == 1).all()
    assert not seen[0][:, 5:].any()


# --- files -------------------------------------------------------------------------------------------


def plain_noise(unet, host, latent, timesteps, context):
    """The original UNet's own answer; for Stable Diffusion XL with what is added to its timestep."""
    if host.info.family == "sdxl":
        height, width = 8 * latent.shape[2], 8 * latent.shape[3]
        sizes = timestep_embedding(torch.tensor([height, width, 0, 0, height, width]), 256).flatten()[None]
        added = unet.label_emb(torch.cat([context.pooled, sizes.expand(len(context), -1)], dim=-1))
        plain = unet.time_embed

        class Plus(nn.Module):
            def forward(self, x):
                return plain(x) + added

        unet.time_embed = Plus()
    return unet(latent, timesteps, context.tokens)


def test_loading_leaves_the_random_states_as_they_were(tmp_path, host):
    file, _, _ = write_checkpoint(tmp_path / "file")
    write_folder(tmp_path / "folder", host)
    before = torch.get_rng_state()

    for path in (file, tmp_path / "folder"):
        DiffusersHost.load(path)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_file_gives_the_models_that_are_in_it(tmp_path, family, name):
    path, made, unet = write_checkpoint(tmp_path, family, name=name)

    host = DiffusersHost.load(path)

    assert host.info.family == family
    assert host.info.prediction == "noise"
    assert host.info.unet == made.info.unet
    pixels = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(1)) * 2 - 1
    scale = {"sdxl": 0.18215 / 0.13025}.get(family, 1)  # the .yaml of the test says 0.18215
    torch.testing.assert_close(host.encode_image(pixels), scale * made.encode_image(pixels))
    context = host.encode_prompt(["cat dog", "a house"])
    for own, theirs in zip(host.text, made.text, strict=True):
        theirs.model.load_state_dict(own.model.state_dict())  # both have these weights, by the same names
    ids, _ = host.text[-1].tokenize(["cat dog"])
    if family == "sd1":
        expected = made.text[0].model(ids).last
        torch.testing.assert_close(context.tokens[:1], expected)
    latent, timesteps, _ = a_pass(host)
    found = host.predict_noise(latent, timesteps.expand(2), context)
    torch.testing.assert_close(
        found, plain_noise(unet, host, latent, timesteps.expand(2), context), atol=2e-4, rtol=1e-3
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_text_encoders_of_a_single_file_have_the_weights_that_were_put_in(tmp_path, family):
    path, made, _ = write_checkpoint(tmp_path, family)

    host = DiffusersHost.load(path)

    for own, theirs in zip(host.text, made.text, strict=True):
        expected = theirs.model.state_dict()
        assert list(own.model.state_dict()) == list(expected)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in own.model.state_dict().items())
        assert own.penultimate == theirs.penultimate
    ids, cut = host.text[0].tokenize(["cat dog", "x" * 200])
    assert ids[0, :4].tolist() == [1022, 513, 515, 1023]
    assert cut == (False, True)
    pads = {encoder.tokenize(["cat"])[0][0, -1].item() for encoder in host.text}
    assert pads == {"sd1": {1023}, "sd2": {0}, "sdxl": {1023, 0}}[family]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_folder_in_diffusers_layout_gives_the_same_model(tmp_path, family, prediction):
    made = random_host(family)
    write_folder(tmp_path, made, prediction)

    host = DiffusersHost.load(tmp_path)

    assert (host.info.family, host.info.unet) == (family, made.info.unet)
    assert host.info.prediction == ("v" if prediction == "v_prediction" else "noise")
    assert torch.equal(host.schedule.alphas_cumprod, Schedule.scaled_linear().alphas_cumprod)
    latent, timesteps, context = a_pass(made)
    expected = made.predict_noise(latent, timesteps, context)
    if prediction == "v_prediction":
        expected = host.schedule.noise_from_v(expected, latent, timesteps)
    torch.testing.assert_close(host.predict_noise(latent, timesteps, context), expected)
    assert host.encode_prompt(["cat"]).tokens.shape == context.tokens.shape


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folders_unet_is_that_of_the_single_file_tensor_by_tensor(tmp_path, family):
    path, *_ = write_checkpoint(tmp_path / "file", family)
    unet = diffusers_unet(DiffusersHost.load(path).unet)
    forms = {"whole": {}, "parts": {"max_shard_size": "200KB"}, "pickled": {"safe_serialization": False}}
    expected = unet_state(path)

    for form, options in forms.items():
        unet.save_pretrained(tmp_path / form / "unet", **options)
        found = unet_state(tmp_path / form)

        assert found.keys() == expected.keys(), form
        assert all(torch.equal(found[name], expected[name]) for name in expected), form
    assert ("label_emb.0.0.weight" in expected) == (family == "sdxl")
    assert len(list((tmp_path / "parts" / "unet").glob("*-of-*.safetensors"))) > 1


def test_a_folder_whose_unet_is_missing_or_of_another_kind_is_nothing_to_start_from(tmp_path):
    with pytest.raises(HostError, match=r"UNet is missing: .*unet holds no weights, such as diffusion_"):
        unet_state(tmp_path)

    (tmp_path / "unet").mkdir()
    save_file({"mid_block.motion.weight": torch.zeros(1)}, tmp_path / "unet/diffusion_pytorch_model.safetensors")
    with pytest.raises(HostError, match=r"has a tensor mid_block.motion.weight, which no Stable Diffusion"):
        unet_state(tmp_path)


def test_the_yaml_beside_a_checkpoint_says_that_it_predicts_v(tmp_path):
    path, *_ = write_checkpoint(tmp_path, parameterization="v")

    assert DiffusersHost.load(path).info.prediction == "v"
    assert DiffusersHost.load(path, prediction="noise").info.prediction == "noise"


@pytest.mark.parametrize(("share", "expected"), [(1.0, "noise"), (-0.2, "v")])
def test_without_a_yaml_a_pass_over_pure_noise_tells_what_is_predicted(share, expected):
    class Answers(nn.Module):
        def forward(self, x, _timesteps, _context):
            other = torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
            return share * x + 0.1 * other

    assert single_file._guess_prediction(Answers(), UNetConfig()) == expected


def test_a_missing_tokenizer_is_an_error_that_says_where_to_put_it(tmp_path, monkeypatch):
    path, *_ = write_checkpoint(tmp_path)
    for file in (tmp_path / "tokenizer").iterdir():
        file.unlink()
    monkeypatch.setattr(tokenizers, "_TOKENIZERS", ("ldznet/no-such-tokenizer",))

    with pytest.raises(HostError) as error:
        DiffusersHost.load(path)

    assert "tokenizer of model.safetensors is missing" in str(error.value)
    assert "vocab.json and merges.txt" in str(error.value)
    assert "--download" in str(error.value)


def test_a_tokenizer_of_another_model_is_an_error(tmp_path):
    import json

    path, *_ = write_checkpoint(tmp_path)
    vocabulary = json.loads((tmp_path / "tokenizer" / "vocab.json").read_text())
    vocabulary["<one more>"] = len(vocabulary)
    (tmp_path / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))

    with pytest.raises(HostError, match=r"has 1025 entries, but the text encoder of model.safetensors has 1024"):
        DiffusersHost.load(path)


def test_a_width_without_a_yaml_is_an_error_that_asks_for_one(tmp_path):
    path, *_ = write_checkpoint(tmp_path)
    path.with_suffix(".yaml").unlink()

    with pytest.raises(HostError, match=r"32 channels wide.*Put the model's .yaml beside it"):
        DiffusersHost.load(path)


def test_a_broken_yaml_is_an_error(tmp_path):
    path, *_ = write_checkpoint(tmp_path)
    path.with_suffix(".yaml").write_text("[1, 2")

    with pytest.raises(HostError, match="no configuration of Stable Diffusion"):
        DiffusersHost.load(path)


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("model: {params: 5}", "its params are 5"),
        ("model: {params: {unet_config: 5}}", "its unet_config is 5"),
        ("model: {params: {cond_stage_config: {params: [1]}}}", "its cond_stage_config is .1."),
        ("model: {params: {unet_config: {params: }}}", "its unet_config is None"),
    ],
)
def test_a_yaml_of_the_wrong_kinds_is_an_error(tmp_path, yaml, said):
    path = tmp_path / "model.safetensors"
    path.with_suffix(".yaml").write_text(yaml)

    with pytest.raises(HostError, match=rf"no configuration of Stable Diffusion \({said}\)"):
        DiffusersHost.load(path)


@pytest.mark.parametrize("damage", ["{", '["a"]', '{"a": "b"}'])
def test_a_damaged_tokenizer_is_an_error(tmp_path, damage):
    write_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "vocab.json").write_text(damage)

    with pytest.raises(HostError, match=r"The tokenizer in .* is damaged|belongs to another model"):
        tokenizers.find_tokenizer(tmp_path / "model.safetensors", {}, False, 1024)


def test_whatever_a_library_raises_on_a_damaged_part_is_explained(tmp_path):
    with pytest.raises(HostError, match=r"cannot be loaded \(oh\)"), parts.explained(tmp_path):
        raise Exception("oh")
    for error in (HostError("ours"), MemoryError()):
        with pytest.raises(type(error)), parts.explained(tmp_path):
            raise error


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("model.diffusion_model.", "is no Stable Diffusion checkpoint; it seems to be a VAE"),
        ("first_stage_model.", "holds no VAE"),
        ("cond_stage_model.", "has a UNet but no text encoder"),
        ("model.diffusion_model.out.2.bias", "does not fit its structure: 1 tensors are missing"),
        (
            "model.diffusion_model.middle_block.1.proj_in.weight",
            "not a Stable Diffusion UNet in the original layout",
        ),
    ],
)
def test_a_checkpoint_without_a_part_is_an_error_that_names_it(tmp_path, prefix, said):
    from safetensors.torch import load_file, save_file

    path, *_ = write_checkpoint(tmp_path)
    save_file({n: t for n, t in load_file(path).items() if not n.startswith(prefix)}, path)

    with pytest.raises(HostError) as error:
        DiffusersHost.load(path)
    assert said in str(error.value)


def test_a_folder_without_a_model_is_an_error_that_names_the_files_in_it(tmp_path):
    (tmp_path / "sd15.safetensors").write_bytes(b"x")

    with pytest.raises(HostError, match=r"no model_index.json. It holds sd15.safetensors: give one of these"):
        DiffusersHost.load(tmp_path)


def test_a_folder_with_a_part_missing_is_an_error(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")

    with pytest.raises(HostError, match=r"The UNet is missing: .*Copy the folder unet from where the model came"):
        DiffusersHost.load(tmp_path)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        DiffusersHost.load(tmp_path / "none.safetensors")


# --- which head fits ---------------------------------------------------------------------------------


def test_a_head_fits_the_family_it_was_made_for(host):
    require_fit(random_head(host.info.unet).head.config, host.info)


@pytest.mark.parametrize(
    ("family", "options", "said"),
    [
        ("sd2", {}, "prompts of width 768, not 1024"),
        ("sdxl", {}, "a UNet of widths 320-640-1280-1280, not 320-640-1280"),
        ("sd1", {"in_channels": 9}, "a UNet that reads 4 channels, not the 9 of an inpainting model"),
    ],
)
def test_a_head_for_another_model_is_refused_before_any_work(family, options, said):
    from ldznet.heads.network import HeadConfig

    structure = random_weights.published(family, options.get("in_channels", 4))
    info = HostInfo("loaded.safetensors", family, "noise", structure)

    with pytest.raises(HeadError) as error:
        require_fit(HeadConfig(), info)

    assert said in str(error.value)
    assert "does not fit the loaded model loaded.safetensors" in str(error.value)


def test_tokens_of_words_add_up(host):
    words = ["a", "photograph", "bucket", "and", "sky"]
    each = host.count_tokens(words)
    assert all(number >= 1 for number in each)
    assert host.count_tokens([" ".join(words), ""]) == [sum(each), 0]
    assert host.count_tokens(["cat " * 100]) == [75]
