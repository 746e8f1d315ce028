"""The heads' structure, what they accept, and how they start from a Stable Diffusion UNet."""

import dataclasses

import pytest
import torch

from ldznet.errors import CheckpointError, FeatureError, HeadError, ShapeError
from ldznet.heads.head_file import empty_head, shapes_of
from ldznet.heads.narrow_storage import store_narrow
from ldznet.heads.network import (
    Head,
    HeadConfig,
    head_config_for_unet,
    paper_pool_grids,
    parameter_count,
    start_from_unet,
)
from ldznet.heads.unet import UNet, UNetConfig

TINY = UNetConfig(model_channels=32, heads=4, context_width=16, out_channels=1)
# Stable Diffusion 2.x and XL, narrow
TINY_SD2 = dataclasses.replace(TINY, heads=8, head_channels=16, linear_projection=True)
TINY_SDXL = UNetConfig(
    model_channels=32,
    channel_mult=(1, 2, 4),
    depths=(0, 2, 3),
    middle_depth=3,
    head_channels=16,
    context_width=24,
    linear_projection=True,
    out_channels=1,
)


def config(kind, unet=TINY):
    return HeadConfig(kind=kind, unet=unet, pool_grids=paper_pool_grids(unet), stem_width=8)


def random_head(kind, unet=TINY, seed=0, fusion="attention"):
    torch.manual_seed(seed)
    head = Head(dataclasses.replace(config(kind, unet), fusion=fusion))
    for parameter in head.parameters():  # zeros would hide what comes before them
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=2 / parameter[0].numel() ** 0.5)
    return head.eval().requires_grad_(False)


def inputs(head, size=(8, 16), prompts=1, latents=1):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    unet = head.config.unet
    image = head.config.kind == "rgbnet"
    x = draw(latents, 3, 8 * size[0], 8 * size[1]) if image else draw(latents, 4, *size)
    features = {}
    for path in head.config.pool_grids:
        deepest = path == "middle_block.1"
        down = unet.multiple if deepest else 2 ** max(i for i, depth in enumerate(unet.depths) if depth)
        width = unet.model_channels * unet.channel_mult[-1]
        features[path] = draw(prompts, width, size[0] // down, size[1] // down)
    return x, draw(prompts, 7, unet.context_width), features


def assert_each_is_as_alone(together, head, x, context, features):
    for index, logits in enumerate(together):
        alone = {path: feature[index : index + 1] for path, feature in features.items()}
        expected = head(x, context[index : index + 1], alone)
        torch.testing.assert_close(logits[None], expected, atol=1e-3, rtol=1e-4)


def test_the_full_size_head_has_the_released_names_shapes_and_parameters(released_shapes):
    head = empty_head(HeadConfig())

    assert list(shapes_of(head).items()) == list(released_shapes.items())
    assert parameter_count(head) == 925_882_936


def test_the_full_size_znet_is_the_same_without_the_five_fusions():
    head = empty_head(HeadConfig(kind="znet"))

    assert parameter_count(head) == 925_882_936 - 66_370_560
    assert not [name for name, _ in head.named_parameters() if "attn3" in name or "pool" in name]


def test_the_full_size_rgbnet_adds_a_stem_that_ends_in_a_latents_channels():
    rgbnet, znet = empty_head(HeadConfig(kind="rgbnet")), empty_head(HeadConfig(kind="znet"))

    added = {name for name, _ in rgbnet.named_parameters()} - {name for name, _ in znet.named_parameters()}
    assert {name.split(".")[0] for name in added} == {"stem"}
    assert rgbnet.stem[-1].out_channels == 4
    assert parameter_count(rgbnet) == 859_892_412


# --- features joined instead of attended to, as in the paper's ablation ------------------------------


def test_a_full_size_head_that_joins_features_has_five_convolutions_in_the_place_of_the_attention():
    head = empty_head(HeadConfig(fusion="concat"))

    added = [name for name, _ in head.named_parameters() if "concatenation" in name]
    assert len(added) == 10
    assert added[0] == "input_blocks.8.1.concatenation.proj.weight"
    assert not [name for name, _ in head.named_parameters() if "attn3" in name or "pool" in name]
    assert parameter_count(head) == 925_882_936 - 66_370_560 + 5 * (2 * 1280 * 1280 + 1280)
    assert parameter_count(head) == 875_902_776


@pytest.mark.parametrize("unet", [TINY, TINY_SD2, TINY_SDXL], ids=["sd1", "sd2", "sdxl"])
def test_joined_features_change_the_answer_of_each_prompt_for_itself(unet):
    head = random_head("ld-znet", unet, fusion="concat")
    x, context, features = inputs(head, prompts=3)
    together = head(x, context, features)

    assert_each_is_as_alone(together, head, x, context, features)
    for path in features:
        changed = head(x, context, {**features, path: features[path].flip(1)})
        assert not torch.equal(together, changed), path


def test_joined_features_are_brought_to_the_size_of_the_place():
    head = random_head("ld-znet", fusion="concat")
    x, context, features = inputs(head, size=(16, 16))
    coarse = {path: torch.nn.functional.avg_pool2d(feature, 2) for path, feature in features.items()}
    fine = {
        path: torch.nn.functional.interpolate(feature, scale_factor=2.0, mode="bilinear")
        for path, feature in coarse.items()
    }

    torch.testing.assert_close(head(x, context, coarse), head(x, context, fine))


def test_a_head_that_joins_features_starts_as_if_they_were_not_there():
    torch.manual_seed(3)
    state = {name: torch.randn_like(tensor) * 0.05 for name, tensor in UNet(TINY).state_dict().items()}
    plain, joined = (
        Head(dataclasses.replace(config(kind), fusion="concat")).eval() for kind in ("znet", "ld-znet")
    )
    joined.final.load_state_dict(plain.final.state_dict())
    for head in (plain, joined):
        report = start_from_unet(head, state)
    x, context, features = inputs(joined)

    assert {name.split(".")[-3] for name in report.new if not name.startswith("final.")} == {"concatenation"}
    assert torch.equal(plain(x, context), joined(x, context, features))


def test_only_ld_znet_has_a_fusion_and_only_two_are_known():
    assert HeadConfig(kind="znet", fusion="concat") == HeadConfig(kind="znet")
    with pytest.raises(HeadError, match="fusion of features 'sum' is not known: use attention or concat"):
        HeadConfig(fusion="sum")


def test_a_configuration_from_before_there_was_a_choice_is_one_with_attention():
    import json

    joined = dataclasses.replace(config("ld-znet"), fusion="concat")
    old = json.loads(config("ld-znet").to_json())

    assert "fusion" not in old
    assert HeadConfig.from_json(json.dumps(old)).fusion == "attention"
    assert HeadConfig.from_json(joined.to_json()) == joined
    with pytest.raises(CheckpointError, match="fusion of features 'sum' is not known"):
        HeadConfig.from_json(json.dumps({**old, "fusion": "sum"}))


@pytest.mark.parametrize("kind", ["ld-znet", "znet", "rgbnet"])
@pytest.mark.parametrize("size", [(8, 8), (8, 24), (40, 16)])
def test_every_kind_answers_at_the_images_size_for_latents_of_multiples_of_eight(kind, size):
    head = random_head(kind)
    x, context, features = inputs(head, size)

    logits = head(x, context, features)

    assert tuple(logits.shape) == (1, 1, 8 * size[0], 8 * size[1])
    assert logits.isfinite().all()
    assert logits.std() > 0


@pytest.mark.parametrize("unet", [TINY, TINY_SD2, TINY_SDXL], ids=["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("kind", ["ld-znet", "znet", "rgbnet"])
def test_one_latent_serves_a_batch_of_prompts_like_each_prompt_alone(kind, unet):
    head = random_head(kind, unet)
    x, context, features = inputs(head, prompts=3)

    together = head(x, context, features)

    assert_each_is_as_alone(together, head, x, context, features)
    spread = head(x.expand(3, -1, -1, -1), context, features)
    torch.testing.assert_close(together, spread, atol=1e-3, rtol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_the_heads_answer_depends_on_every_one_of_its_features():
    head = random_head("ld-znet")
    x, context, features = inputs(head)
    plain = head(x, context, features)

    for path in features:
        changed = head(x, context, {**features, path: features[path].flip(1)})
        assert not torch.allclose(plain, changed, atol=1e-4), path


def test_gradients_reach_every_parameter():
    head = random_head("ld-znet").requires_grad_(True)
    x, context, features = inputs(head, prompts=2)

    head(x, context, features).square().mean().backward()

    assert [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(("size", "said"), [((12, 16), "12 x 16"), ((8, 20), "8 x 20"), ((0, 8), "0 x 8")])
def test_a_latent_of_another_multiple_is_refused_with_its_size(size, said):
    head = random_head("znet")

    with pytest.raises(ShapeError, match=rf"latent is {said}, but both sides must be multiples of 8") as error:
        head(torch.zeros(1, 4, *size), torch.zeros(1, 7, 16))

    assert "multiples of 64" in str(error.value)


def test_an_image_instead_of_a_latent_is_refused():
    with pytest.raises(
        ShapeError, match=r"znet reads \(batch, 4, height, width\), but was given \(1, 3, 64, 64\)"
    ):
        random_head("znet")(torch.zeros(1, 3, 64, 64), torch.zeros(1, 7, 16))


def test_an_image_of_odd_size_is_refused_by_rgbnet():
    with pytest.raises(ShapeError, match=r"image is 60 x 64, but both sides must be multiples of 64"):
        random_head("rgbnet")(torch.zeros(1, 3, 60, 64), torch.zeros(1, 7, 16))


def test_a_context_of_another_text_encoder_is_refused():
    with pytest.raises(ShapeError, match=r"reads prompts of width 16, but was given \(1, 77, 1024\)"):
        random_head("znet")(torch.zeros(1, 4, 8, 8), torch.zeros(1, 77, 1024))


def test_latents_and_prompts_that_do_not_pair_up_are_refused():
    with pytest.raises(ShapeError, match="2 latents and 3 prompts do not pair up"):
        random_head("znet")(torch.zeros(2, 4, 8, 8), torch.zeros(3, 7, 16))


def test_missing_features_are_named():
    head = random_head("ld-znet")
    x, context, features = inputs(head)
    del features["output_blocks.3.1"]

    with pytest.raises(
        FeatureError, match=r"5 features of the UNet, but 1 were not given, first output_blocks.3.1"
    ):
        head(x, context, features)


def test_features_of_a_wider_unet_are_refused():
    head = random_head("ld-znet")
    x, context, features = inputs(head)
    features["middle_block.1"] = torch.zeros(1, 1280, 1, 2)

    with pytest.raises(FeatureError, match=r"feature at middle_block.1 is \(1, 1280, 1, 2\), but the head reads"):
        head(x, context, features)


def test_the_configuration_survives_json():
    for unet in (TINY, TINY_SD2, TINY_SDXL):
        made = config("ld-znet", unet)
        assert HeadConfig.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"unet": {}, "kind": "sam"}', '{"unet": {"depth": 3}}', "[" * 100000]
)
def test_a_configuration_of_another_kind_is_refused(text):
    with pytest.raises((CheckpointError, HeadError), match=r"cannot be read|is not known"):
        HeadConfig.from_json(text)


@pytest.mark.parametrize(
    "change",
    [
        {"heads": 0},
        {"heads": -4},
        {"heads": "4"},
        {"heads": 3},
        {"model_channels": 33},
        {"model_channels": -32},
        {"head_channels": 7},
        {"depths": [1, 1]},
        {"depths": [100000, 1, 1, 0]},
        {"channel_mult": ["1", 2, 4, 4]},
        {"in_channels": None},
    ],
    ids=str,
)
def test_a_configuration_that_fits_no_network_is_refused(change):
    import json

    raw = json.loads(config("ld-znet").to_json())
    raw["unet"].update(change)

    with pytest.raises(CheckpointError, match=r"cannot be read \(No UNet has the structure|cannot be read \("):
        HeadConfig.from_json(json.dumps(raw))


@pytest.mark.parametrize("grids", [[], {"middle_block.1": "6"}, {"middle_block.1": -6}], ids=str)
def test_grids_that_are_no_numbers_are_refused(grids):
    with pytest.raises(HeadError, match="no whole numbers by path"):
        HeadConfig(pool_grids=grids)


def test_features_of_another_number_of_prompts_and_empty_batches_are_refused():
    head = random_head("ld-znet")
    x, context, features = inputs(head, prompts=3)

    with pytest.raises(FeatureError, match="is of 2 prompts, but there are 3"):
        head(x, context, {path: feature[:2] for path, feature in features.items()})
    with pytest.raises(ShapeError, match="There is no latent or no prompt"):
        head(x, context[:0], features)


def test_a_head_without_weights_cannot_start_from_a_unet():
    with pytest.raises(HeadError, match="on the meta device and holds no weights"):
        start_from_unet(empty_head(config("znet")), {})


def test_a_block_that_the_unet_does_not_have_is_refused_with_those_it_has():
    with pytest.raises(
        HeadError, match=r"features at output_blocks.2.1, but .* has no transformer .*middle_block.1"
    ):
        HeadConfig(pool_grids={"output_blocks.2.1": 12})


@pytest.mark.parametrize("unet", [TINY, TINY_SD2, TINY_SDXL], ids=["sd1", "sd2", "sdxl"])
def test_the_structure_can_be_read_off_the_shapes(unet):
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in UNet(unet).state_dict().items()}

    assert UNetConfig.from_shapes(shapes, heads=unet.heads, head_channels=unet.head_channels) == unet


def test_weights_that_are_no_unet_are_refused():
    with pytest.raises(ShapeError, match=r"have no 'input_blocks.0.0.weight', so they are not a Stable Diffusion"):
        UNetConfig.from_shapes({"encoder.conv_in.weight": (128, 3, 3, 3)})


def test_the_papers_blocks_are_6_to_10_of_the_16():
    paths = HeadConfig().unet.transformer_paths()

    assert len(paths) == 16
    assert paths[5:10] == list(HeadConfig().pool_grids)
    assert paper_pool_grids(UNetConfig()) == dict(HeadConfig().pool_grids)


# --- starting from Stable Diffusion ------------------------------------------------------------------


def start(kind, in_channels=4, prefix=""):
    torch.manual_seed(3)
    unet = UNet(dataclasses.replace(TINY, in_channels=in_channels, out_channels=4))
    state = {prefix + name: torch.randn_like(tensor) for name, tensor in unet.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}
    head = Head(dataclasses.replace(head_config_for_unet(shapes, kind, heads=4), stem_width=8))
    return head, state, start_from_unet(head, state)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_head_takes_all_of_the_unet_but_three_channels_of_its_last_convolution(prefix):
    head, state, report = start("ld-znet", prefix=prefix)
    own = head.state_dict()

    assert report.unused == []
    assert report.cut == ["out.2.weight", "out.2.bias"]
    assert len(report.taken) == 686 - 2
    assert all(torch.equal(own[name], state[prefix + name]) for name in report.taken)
    assert torch.equal(own["out.2.weight"], state[f"{prefix}out.2.weight"][:1])
    assert len(report.new) == 74
    assert {name.split(".")[-2] for name in report.new if "attention" in name} == {
        "attentionpool2D",
        "qkv_proj",
        "c_proj",
    }
    assert str(report) == "684 tensors taken, 2 cut to fit, 74 new, 0 of the UNet not used"


def test_new_parts_keep_their_first_values():
    head, _, report = start("ld-znet")

    table = head.state_dict()["middle_block.1.attentionpool2D.positional_embedding"]
    assert "middle_block.1.attentionpool2D.positional_embedding" in report.new
    assert table.std().item() == pytest.approx(128**-0.5, rel=0.05)


def test_a_head_starts_from_the_latents_channels_of_an_inpainting_model():
    head, state, report = start("znet", in_channels=9)

    assert "input_blocks.0.0.weight" in report.cut
    assert torch.equal(head.state_dict()["input_blocks.0.0.weight"], state["input_blocks.0.0.weight"][:, :4])


def test_rgbnet_takes_the_unet_down_to_its_first_convolution():
    _, _, report = start("rgbnet")

    assert "input_blocks.0.0.weight" in report.taken
    assert {name.split(".")[0] for name in report.new} == {"stem", "final"}


def test_a_unet_of_another_structure_is_refused_and_the_head_stays_as_it_was():
    head, state, _ = start("znet")
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    state["middle_block.1.proj_in.weight"] = torch.zeros(64, 64, 1, 1)
    state["input_blocks.0.0.weight"] = torch.ones(32, 4, 3, 3)
    del state["time_embed.0.bias"]

    with pytest.raises(
        HeadError, match=r"2 of \d+ tensors do not fit, first middle_block.1.proj_in.weight"
    ) as error:
        start_from_unet(head, state)

    assert "time_embed.0.bias is missing" in str(error.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in head.state_dict().items())


# --- weights that rest in half precision ---------------------------------------------------------------


def test_weights_that_rest_in_half_precision_compute_in_float32_and_rest_again():
    wide, narrow = random_head("ld-znet"), random_head("ld-znet")
    for head in (wide, narrow):
        head.half()
    wide.float()
    store_narrow(narrow, torch.float16)
    x, context, features = inputs(wide, prompts=2)

    found = narrow(x, context, features)

    assert torch.equal(found, wide(x, context, features))
    assert {parameter.dtype for parameter in narrow.parameters()} == {torch.float16}
    assert torch.equal(narrow(x, context, features), found)


def test_weights_rest_again_when_a_layer_raises():
    head = random_head("znet")
    store_narrow(head, torch.bfloat16)
    x, context, _ = inputs(head)
    fault = head.middle_block[1].norm.register_forward_pre_hook(lambda *_: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        head(x, context)
    fault.remove()

    assert {parameter.dtype for parameter in head.parameters()} == {torch.bfloat16}
    assert head(x, context).dtype == torch.float32
