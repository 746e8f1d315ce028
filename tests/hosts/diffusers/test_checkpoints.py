"""Checkpoints as people have them: names, layers, marks and folders of every usual kind."""

import shutil

import pytest
import torch
from oracles import diffusers_vae
from safetensors.torch import load_file, save_file
from stand_ins import write_checkpoint, write_folder

from ldznet.errors import CheckpointError, HostError
from ldznet.hosts.diffusers.configuration import configured_prediction, has_zero_snr
from ldznet.hosts.diffusers.host import DiffusersHost
from ldznet.hosts.diffusers.part_names import TextPart, layer_count, text_sources, vae_sources
from ldznet.hosts.host import Schedule

CLIP = "cond_stage_model.transformer."
PROMPTS = ["cat dog", "a house"]
UNET = "model.diffusion_model."


def changed(path, change, name="variant.safetensors"):
    """The same checkpoint with another state, its .yaml beside it."""
    target = path.with_name(name)
    state = {key: tensor.contiguous().clone() for key, tensor in change(load_file(path)).items()}
    save_file(state, target)
    if path.with_suffix(".yaml").exists():
        shutil.copyfile(path.with_suffix(".yaml"), target.with_suffix(".yaml"))
    return target


def contexts(path, **options):
    return DiffusersHost.load(path, **options).encode_prompt(PROMPTS)


def renamed(*pairs):
    """A change of names."""

    def change(state):
        out = {}
        for name, tensor in state.items():
            new = name
            for old, replacement in pairs:
                new = new.replace(old, replacement)
            out[new] = tensor
        return out

    return change


# --- text encoders -----------------------------------------------------------------------------------


ADDED = {
    "projection": {f"{CLIP}text_projection.weight": torch.eye(8)},
    "logit_scale": {f"{CLIP}logit_scale": torch.ones(()), "cond_stage_model.logit_scale": torch.ones(())},
    "position_ids": {f"{CLIP}text_model.embeddings.position_ids": torch.arange(77)[None]},
    "short position_ids": {f"{CLIP}embeddings.position_ids": torch.arange(77)[None]},
    "image encoder": {f"{CLIP}vision_model.encoder.layers.0.mlp.fc1.weight": torch.eye(8)},
}


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("added", ADDED.values(), ids=ADDED)
def test_names_and_extra_tensors_of_a_clip_encoder_make_no_difference(tmp_path, short, added):
    path, *_ = write_checkpoint(tmp_path)
    names = renamed((f"{CLIP}text_model.", CLIP)) if short else renamed()

    variant = changed(path, lambda state: names(state) | added)

    assert torch.equal(contexts(variant).tokens, contexts(path).tokens)


@pytest.mark.parametrize("prefix", ["cond_stage_model.model.", "conditioner.embedders.0.model."])
def test_23_and_24_layers_of_stable_diffusion_2_give_the_same_contexts(tmp_path, prefix):
    path, *_ = write_checkpoint(tmp_path, "sd2")
    names = renamed(("cond_stage_model.model.", prefix))
    published = changed(path, names, "published.safetensors")
    extra = {f"{prefix}logit_scale": torch.ones(()), f"{prefix}attn_mask": torch.zeros(77, 77)}
    extra |= {f"{prefix}text_projection": torch.eye(64)}

    cut = changed(path, lambda state: {n: t for n, t in names(state).items() if ".resblocks.2." not in n} | extra)

    assert any(".resblocks.2." in name for name in load_file(published))
    hosts = [DiffusersHost.load(one) for one in (path, published, cut)]
    assert [host.info.family for host in hosts] == ["sd2"] * 3
    assert [host.text[0].model.config.layers for host in hosts] == [2] * 3
    first, *others = (host.encode_prompt(PROMPTS) for host in hosts)
    assert all(torch.equal(other.tokens, first.tokens) for other in others)


@pytest.mark.parametrize(
    ("layers", "layout", "configuration", "expected"),
    [
        (24, "open_clip", {}, 23),
        (23, "open_clip", {}, 23),
        (24, "clip", {}, 23),
        (23, "clip", {}, 23),
        (2, "open_clip", {"cond_stage_config": {"params": {"layers": 3}}}, 2),
        (3, "open_clip", {"cond_stage_config": {"params": {"layers": 3}}}, 2),
        (2, "clip", {}, 2),
    ],
)
def test_the_layer_that_is_never_used_is_left_out_if_it_is_there(layers, layout, configuration, expected):
    from ldznet.heads.weight_files import TensorFile
    from ldznet.hosts.diffusers.text import _without_last_layer

    width = 1024 if layers > 20 else 64
    inside = (
        "transformer.resblocks.{}.ln_1.bias" if layout == "open_clip" else "encoder.layers.{}.layer_norm1.bias"
    )
    tokens = "token_embedding.weight" if layout == "open_clip" else "embeddings.token_embedding.weight"
    shapes = {f"x.{tokens}": (10, width), **{f"x.{inside.format(n)}": (width,) for n in range(layers)}}
    part = TextPart("x.", layout)
    file = TensorFile("x", shapes, None, {})

    sources = _without_last_layer(text_sources(shapes, part), file, part, configuration)

    assert layer_count(sources) == expected


def test_the_names_of_xls_code_alone_do_not_make_an_xl_model(tmp_path):
    path, *_ = write_checkpoint(tmp_path)
    variant = changed(path, renamed(("cond_stage_model.", "conditioner.embedders.0.")))

    assert DiffusersHost.load(variant).info.family == "sd1"
    assert torch.equal(contexts(variant).tokens, contexts(path).tokens)


def test_xl_reads_both_encoders_under_any_usual_names(tmp_path):
    path, *_ = write_checkpoint(tmp_path, "sdxl")
    zero, one = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
    extra = {f"{one}logit_scale": torch.ones(()), f"{zero}text_model.embeddings.position_ids": torch.arange(77)}

    variant = changed(path, lambda state: renamed((f"{zero}text_model.", zero))(state) | extra)
    first, second = contexts(path), contexts(variant)

    assert torch.equal(first.tokens, second.tokens)
    assert torch.equal(first.pooled, second.pooled)


def test_a_refiner_is_refused_by_name(tmp_path):
    path, *_ = write_checkpoint(tmp_path, "sdxl")

    def refiner(state):
        state = {n: t for n, t in state.items() if not n.startswith("conditioner.embedders.0.")}
        return renamed(("conditioner.embedders.1.", "conditioner.embedders.0."))(state)

    with pytest.raises(HostError, match="is a Stable Diffusion XL refiner"):
        DiffusersHost.load(changed(path, refiner))
    (tmp_path / "text_encoder_2").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(HostError, match="is a Stable Diffusion XL refiner"):
        DiffusersHost.load(tmp_path)


def test_an_xl_file_that_lost_one_encoder_is_an_error_that_counts_them(tmp_path):
    path, *_ = write_checkpoint(tmp_path, "sdxl")
    lost = changed(path, lambda state: {n: t for n, t in state.items() if "embedders.1." not in n})

    with pytest.raises(HostError, match="holds 1 text encoders that ldznet knows, but its UNet reads 2"):
        DiffusersHost.load(lost)


def test_every_row_of_the_table_of_openclips_names_leads_to_a_name_of_transformers():
    names = [
        "token_embedding.weight",
        "positional_embedding",
        "ln_final.bias",
        "text_projection",
        *(
            f"transformer.resblocks.3.{layer}"
            for layer in ("ln_1.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_proj.bias", "attn.out_proj.weight")
        ),
        "transformer.resblocks.3.attn.in_proj_weight",
    ]
    sources = text_sources([f"x.{name}" for name in names], TextPart("x.", "open_clip"))

    assert {new: old.removeprefix("x.") for new, (old, _) in sources.items()} == {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.bias": "ln_final.bias",
        "text_projection.weight": "text_projection",
        "encoder.layers.3.layer_norm1.weight": "transformer.resblocks.3.ln_1.weight",
        "encoder.layers.3.layer_norm2.bias": "transformer.resblocks.3.ln_2.bias",
        "encoder.layers.3.mlp.fc1.weight": "transformer.resblocks.3.mlp.c_fc.weight",
        "encoder.layers.3.mlp.fc2.bias": "transformer.resblocks.3.mlp.c_proj.bias",
        "encoder.layers.3.self_attn.out_proj.weight": "transformer.resblocks.3.attn.out_proj.weight",
        **{
            f"encoder.layers.3.self_attn.{letter}_proj.weight": "transformer.resblocks.3.attn.in_proj_weight"
            for letter in "qkv"
        },
    }
    matrix = torch.arange(12.0).reshape(6, 2)
    thirds = [sources[f"encoder.layers.3.self_attn.{letter}_proj.weight"][1](matrix) for letter in "qkv"]
    assert torch.equal(torch.cat(thirds), matrix)
    assert sources["text_projection.weight"][1](matrix).shape == (2, 6)


# --- VAE ---------------------------------------------------------------------------------------------


def original_vae(path):
    prefix = "first_stage_model."
    return {n.removeprefix(prefix): t for n, t in load_file(path).items() if n.startswith(prefix)}


OLD_ATTENTION = (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn"))


@pytest.mark.parametrize(
    "kind", ["original", "bare", "bare .ckpt with a loss", "diffusers", "old diffusers", "folder"]
)
def test_a_vae_in_a_file_of_its_own_is_used_instead_of_the_checkpoints(tmp_path, kind):
    path, *_ = write_checkpoint(tmp_path / "a")
    other, *_ = write_checkpoint(tmp_path / "b", seed=7)
    vae = original_vae(other)
    file = tmp_path / ("vae.ckpt" if "ckpt" in kind else "vae.safetensors")
    if kind == "original":
        save_file({f"first_stage_model.{name}": tensor for name, tensor in vae.items()}, file)
    elif kind == "bare":
        save_file(vae, file)
    elif "ckpt" in kind:
        torch.save({"state_dict": {**vae, "loss.logvar": torch.ones(()), "model_ema.decay": torch.ones(())}}, file)
    elif kind == "folder":
        diffusers_vae(DiffusersHost.load(other).vae).save_pretrained(file := tmp_path / "vae")
    else:
        state = DiffusersHost.load(other).vae.state_dict()
        save_file(renamed(*(OLD_ATTENTION if "old" in kind else ()))(state), file)

    host = DiffusersHost.load(path, vae=file)

    pixels = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = DiffusersHost.load(other).encode_image(pixels)
    assert torch.equal(host.encode_image(pixels), expected)
    assert not torch.equal(host.encode_image(pixels), DiffusersHost.load(path).encode_image(pixels))
    assert host.info.details["vae"] == str(file)
    assert DiffusersHost.load(path).info.details["vae"] == "in the checkpoint"


def test_a_checkpoint_without_a_vae_can_be_used_with_one(tmp_path):
    path, *_ = write_checkpoint(tmp_path)
    save_file(original_vae(path), tmp_path / "vae.safetensors")
    without = changed(path, lambda state: {n: t for n, t in state.items() if "first_stage" not in n})

    with pytest.raises(HostError, match=r"holds no VAE .* or the VAE as a file \(--vae\)"):
        DiffusersHost.load(without)
    assert DiffusersHost.load(without, vae=tmp_path / "vae.safetensors").info.family == "sd1"


def test_what_is_no_vae_of_stable_diffusion_is_refused_as_one(tmp_path):
    path, *_ = write_checkpoint(tmp_path)
    vae = original_vae(path)
    wide = {**vae, "decoder.conv_in.weight": torch.zeros(32, 16, 3, 3)}
    save_file(wide, tmp_path / "flux.safetensors")
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    save_file({n: t for n, t in vae.items() if n.startswith("decoder.")}, tmp_path / "half.safetensors")

    with pytest.raises(HostError, match="has latents of 16 channels"):
        DiffusersHost.load(path, vae=tmp_path / "flux.safetensors")
    for name in ("other", "half"):
        with pytest.raises(HostError, match="holds no VAE"):
            DiffusersHost.load(path, vae=tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="does not exist"):
        DiffusersHost.load(path, vae=tmp_path / "none.safetensors")


def test_names_of_a_vae_with_four_levels_are_counted_from_the_other_end_in_the_decoder():
    names = [
        *(f"decoder.up.{level}.block.0.conv1.weight" for level in range(4)),
        "encoder.down.2.block.1.nin_shortcut.bias",
        "encoder.down.0.downsample.conv.weight",
        "decoder.up.3.upsample.conv.weight",
        "decoder.mid.attn_1.proj_out.weight",
        "decoder.mid.attn_1.norm.weight",
        "encoder.mid.block_2.norm1.weight",
        "decoder.norm_out.bias",
        "quant_conv.weight",
    ]

    assert {old: new for new, (old, _) in vae_sources(names).items()} == {
        **{
            f"decoder.up.{n}.block.0.conv1.weight": f"decoder.up_blocks.{3 - n}.resnets.0.conv1.weight"
            for n in range(4)
        },
        "encoder.down.2.block.1.nin_shortcut.bias": "encoder.down_blocks.2.resnets.1.conv_shortcut.bias",
        "encoder.down.0.downsample.conv.weight": "encoder.down_blocks.0.downsamplers.0.conv.weight",
        "decoder.up.3.upsample.conv.weight": "decoder.up_blocks.0.upsamplers.0.conv.weight",
        "decoder.mid.attn_1.proj_out.weight": "decoder.mid_block.attentions.0.to_out.0.weight",
        "decoder.mid.attn_1.norm.weight": "decoder.mid_block.attentions.0.group_norm.weight",
        "encoder.mid.block_2.norm1.weight": "encoder.mid_block.resnets.1.norm1.weight",
        "decoder.norm_out.bias": "decoder.conv_norm_out.bias",
        "quant_conv.weight": "quant_conv.weight",
    }


# --- folders -----------------------------------------------------------------------------------------


def folder_of(tmp_path, family="sd1", **options):
    _, host, _ = write_checkpoint(tmp_path / "file", family, **options)
    write_folder(tmp_path / "whole", host)
    return tmp_path / "whole"


def as_variant(folder):
    for file in list(folder.rglob("*.safetensors")):
        file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))


def as_shards(folder):
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet", max_shard_size="200KB", variant="fp16")
    assert len(list((folder / "unet").glob("*-of-*"))) > 1


def as_pickles(folder):
    for file in list(folder.rglob("*.safetensors")):
        name = file.name.replace("model.safetensors", "pytorch_model.bin")
        name = name.replace("diffusion_pytorch_pytorch_model", "diffusion_pytorch_model")
        torch.save(load_file(file), file.with_name(name))
        file.unlink()


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("change", [as_variant, as_shards, as_pickles])
def test_a_folder_of_variants_shards_or_pickles_is_read_like_the_whole_one(tmp_path, family, change):
    whole = folder_of(tmp_path, family)
    other = shutil.copytree(whole, tmp_path / "other")
    change(other)

    expected, found = DiffusersHost.load(whole), DiffusersHost.load(other)

    assert found.info.fingerprint == expected.info.fingerprint
    assert found.others == expected.others


def test_the_whole_weights_of_a_folder_come_before_its_variants(tmp_path):
    folder = folder_of(tmp_path)
    whole = folder / "unet" / "diffusion_pytorch_model.safetensors"
    half = {name: tensor.half() for name, tensor in load_file(whole).items()}
    save_file(half, whole.with_name("diffusion_pytorch_model.fp16.safetensors"))
    save_file(half, whole.with_name("diffusion_pytorch_model.non_ema.safetensors"))

    assert DiffusersHost.load(folder).info.details["weights"] == f"as in {whole.name}"
    whole.unlink()
    assert DiffusersHost.load(folder).info.details["weights"] == "as in diffusion_pytorch_model.fp16.safetensors"


def test_a_pickle_in_a_folder_is_read_safely(tmp_path):
    import os

    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'trace'}",)

    folder = folder_of(tmp_path)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({**load_file(file), "payload": Payload()}, file.with_suffix(".bin"))
    file.unlink()

    with pytest.raises(CheckpointError, match="asks for code to be run"):
        DiffusersHost.load(folder)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("vae", r"The VAE is missing: .*vae holds no weights, such as diffusion_pytorch_model.safetensors"),
        (
            "tokenizer",
            r"The tokenizer is missing: .*tokenizer holds no vocab.json .* any Stable Diffusion installa",
        ),
        (
            "text_encoder",
            r"The text encoder is missing: .*text_encoder holds no weights, such as model.safetensors",
        ),
        ("scheduler", r"The noise schedule is missing: .*scheduler has no scheduler_config.json"),
        ("unet/config.json", r"The UNet is incomplete: .*unet has no config.json"),
    ],
)
def test_a_part_that_a_folder_lacks_is_named_with_where_it_may_come_from(tmp_path, part, text):
    folder = folder_of(tmp_path)
    missing = folder / part
    shutil.rmtree(missing) if missing.is_dir() else missing.unlink()

    with pytest.raises(HostError, match=text) as error:
        DiffusersHost.load(folder)
    assert "Copy" in str(error.value)


def test_a_folder_without_a_vae_can_be_used_with_one(tmp_path):
    folder = folder_of(tmp_path)
    (folder / "vae").rename(tmp_path / "vae")

    assert DiffusersHost.load(folder, vae=tmp_path / "vae").info.details["vae"] == str(tmp_path / "vae")


def test_old_names_of_a_vaes_attention_and_extra_tensors_in_a_folder_make_no_difference(tmp_path):
    folder = folder_of(tmp_path)
    expected = DiffusersHost.load(folder)
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    save_file(renamed(*OLD_ATTENTION)(load_file(vae)), vae)
    text = folder / "text_encoder" / "model.safetensors"
    extra = {"text_model.embeddings.position_ids": torch.arange(77)[None], "text_projection.weight": torch.eye(8)}
    save_file(load_file(text) | extra, text)

    assert DiffusersHost.load(folder).others == expected.others


# --- marks -------------------------------------------------------------------------------------------


def last_level(host):
    return host.schedule.alphas_cumprod[-1].item()


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_marks_in_the_file_say_what_is_predicted_and_how_the_schedule_ends(tmp_path, family):
    path, *_ = write_checkpoint(tmp_path, family)
    plain = DiffusersHost.load(path)
    v = DiffusersHost.load(changed(path, lambda state: state | {"v_pred": torch.zeros(1)}))
    both = DiffusersHost.load(changed(path, lambda s: s | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}))

    assert [host.info.prediction for host in (plain, v, both)] == ["noise", "v", "v"]
    assert last_level(both) == 0 < last_level(v) == last_level(plain)
    assert both.schedule.alphas_cumprod[0].item() == pytest.approx(plain.schedule.alphas_cumprod[0].item())
    assert both.info.details["prediction"] == "marked by the tensor v_pred in the file"
    assert both.info.details["schedule"] == "as published, zero terminal SNR (marked by the tensor ztsnr)"
    latent = torch.ones(1, 4, 8, 8)
    assert torch.equal(both.add_noise(latent, 2 * latent, torch.tensor([999])), 2 * latent)


@pytest.mark.parametrize("line", ["zero_terminal_snr: true", "rescale_betas_zero_snr: True"])
def test_the_yaml_says_how_the_schedule_ends(tmp_path, line):
    path, *_ = write_checkpoint(tmp_path, parameterization="v")
    yaml = path.with_suffix(".yaml")
    yaml.write_text(yaml.read_text().replace("    scale_factor", f"    {line}\n    scale_factor"))

    host = DiffusersHost.load(path)

    assert (host.info.prediction, last_level(host)) == ("v", 0)
    assert host.info.details["schedule"] == "as published, zero terminal SNR (from the .yaml)"
    assert host.info.details["prediction"] == "from the .yaml beside the file"


def test_xls_own_configuration_is_read():
    def of(scaling, discretization="LegacyDDPMDiscretization"):
        targets = {"scaling_config": {"target": f"sgm.modules.diffusionmodules.denoiser_scaling.{scaling}"}}
        targets["discretization_config"] = {"target": f"sgm.modules.diffusionmodules.discretizer.{discretization}"}
        return {"denoiser_config": {"params": targets}}

    assert configured_prediction(of("VScaling")) == "v"
    assert configured_prediction(of("EpsScaling")) == "noise"
    assert configured_prediction({}) is None
    assert has_zero_snr(of("VScaling", "ZeroSNRDDPMDiscretization"))
    assert not has_zero_snr(of("VScaling"))


def test_a_kind_of_prediction_that_is_not_known_is_refused(tmp_path):
    path, *_ = write_checkpoint(tmp_path, parameterization="x0")

    with pytest.raises(HostError, match='says that the model predicts "x0"'):
        DiffusersHost.load(path)

    edm = changed(path, lambda state: state | {"edm_mean": torch.zeros(4)})
    edm.with_suffix(".yaml").write_text(edm.with_suffix(".yaml").read_text().replace("x0", "eps"))
    with pytest.raises(HostError, match=r"another noise schedule \(EDM, marked by edm_mean\)"):
        DiffusersHost.load(edm)


def test_the_yaml_is_read_as_utf_8_on_every_system(tmp_path, monkeypatch):
    path, *_ = write_checkpoint(tmp_path, parameterization="v")
    yaml = path.with_suffix(".yaml")
    yaml.write_bytes(b"\xef\xbb\xbf# \xc3\xbc \xe6\xa8\xa1\xe5\x9e\x8b\n" + yaml.read_bytes())
    monkeypatch.setattr("locale.getpreferredencoding", lambda *_: "cp1252")

    assert DiffusersHost.load(path).info.prediction == "v"


def test_averaged_weights_in_a_file_are_reported_and_not_used(tmp_path):
    path, *_ = write_checkpoint(tmp_path)
    full = changed(path, lambda state: state | {"model_ema.diffusion_modelout2bias": torch.ones(4)})

    assert DiffusersHost.load(path).info.details["weights"] == "as in the file"
    assert DiffusersHost.load(full).info.details["weights"].startswith("raw; the averaged (EMA) weights")


def test_a_folder_says_how_its_schedule_ends(tmp_path):
    from diffusers import DDIMScheduler

    folder = folder_of(tmp_path)
    options = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    DDIMScheduler(**options, rescale_betas_zero_snr=True, prediction_type="v_prediction").save_pretrained(
        folder / "scheduler"
    )

    host = DiffusersHost.load(folder)

    assert (host.info.prediction, last_level(host)) == ("v", 0)
    theirs = DDIMScheduler(**options, rescale_betas_zero_snr=True).alphas_cumprod.double()
    assert (host.schedule.alphas_cumprod - theirs).abs().max() < 1e-6


def test_a_schedule_that_ends_in_noise_already_stays():
    once = Schedule.scaled_linear().with_zero_snr()

    assert torch.allclose(once.with_zero_snr().alphas_cumprod, once.alphas_cumprod, atol=1e-12)
