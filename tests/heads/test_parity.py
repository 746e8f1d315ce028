"""The network equals the released one, and each of its quirks is needed for that."""

import copy

import pytest
import torch
from conftest import CASES, features_of
from torch import nn
from torch.nn import functional as F

from ldznet.heads import layers, unet
from ldznet.heads.layers import AttentionPool, GroupNorm, SpatialTransformer, TransformerBlock

FEATURES_WITHIN = 1e-5
POOLED_WITHIN = 3e-5  # their values reach 5; fused attention sums in another order
LOGITS_WITHIN = 2e-4


def distance(found, expected):
    return (found - expected).abs().max().item()


def run_unet(small_unet, case):
    features, hooks = {}, []
    for path, module in small_unet.transformers().items():
        hooks.append(module.register_forward_hook(lambda _m, _a, out, path=path: features.update({path: out})))
    with torch.no_grad():
        noise_prediction = small_unet(case["z_noisy"], case["t"], case["c"])
    for hook in hooks:
        hook.remove()
    return noise_prediction, features


@pytest.mark.parametrize("name", CASES)
def test_the_unet_gives_the_recorded_features_and_noise_prediction(small_unet, recorded, recorded_moments, name):
    case = recorded[name]
    noise_prediction, features = run_unet(small_unet, case)

    assert list(features) == recorded_moments[name]["features"]
    for path, expected in features_of(case).items():
        assert distance(features[path], expected) < FEATURES_WITHIN, path
    assert distance(noise_prediction, case["sd_out"]) < 3e-5
    for found, (shape, mean, std, low, high, l2) in zip(
        features.values(), recorded_moments[name]["stats"], strict=True
    ):
        assert list(found.shape) == shape
        expected = torch.tensor([mean, std, low, high, l2])
        moments = torch.stack([found.mean(), found.std(), found.min(), found.max(), found.norm()])
        torch.testing.assert_close(moments, expected, rtol=1e-5, atol=1e-5)


# The logits were recorded whole; every third in both directions is kept, so that all places in a cell of 8 occur.
def kept(logits):
    return logits[..., ::3, ::3]


@pytest.mark.parametrize("name", CASES)
def test_the_head_gives_the_recorded_logits(small_heads, recorded, name):
    case = recorded[name]
    logits = small_heads["ema"](case["z"], case["c"], features_of(case))

    assert tuple(logits.shape) == (1, 1, 8 * case["z"].shape[2], 8 * case["z"].shape[3])
    assert distance(kept(logits), case["logits_ema"]) < LOGITS_WITHIN


def test_the_head_on_features_of_our_own_unet_gives_the_recorded_logits(small_unet, small_heads, recorded):
    case = recorded["40x56_b1"]
    _, features = run_unet(small_unet, case)

    logits = small_heads["ema"](case["z"], case["c"], features)

    assert distance(kept(logits), case["logits_ema"]) < LOGITS_WITHIN


def test_pooling_gives_the_recorded_tokens(small_heads, recorded):
    case = recorded["40x56_b1"]
    transformers = small_heads["ema"].transformers()

    for path, feature in features_of(case).items():
        tokens = transformers[path].attentionpool2D(feature)
        assert distance(tokens.mT, case[f"pool_ema.{path}"]) < POOLED_WITHIN, path


@pytest.mark.parametrize(
    ("dtype", "logits_within", "probability_within"),
    [(torch.float32, 4e-5, 5e-6), (torch.float16, 0.06, 0.01), (torch.bfloat16, 0.5, 0.06)],
)
@pytest.mark.parametrize("name", CASES)
def test_half_precision_stays_within_its_bound_of_float64(
    small_heads, recorded, name, dtype, logits_within, probability_within
):
    case = recorded[name]
    for head in small_heads.values():
        exact = copy.deepcopy(head).double()(case["z"], case["c"], features_of(case))
        found = copy.deepcopy(head).to(dtype)(case["z"], case["c"], features_of(case))

        assert found.dtype == dtype
        assert distance(found.double(), exact) < logits_within
        assert distance(found.double().sigmoid(), exact.sigmoid()) < probability_within


# --- quirks: each mutation is a plausible way to write the network, and breaks parity ----------------


def all_of(head, kind):
    return [module for module in head.modules() if isinstance(module, kind)]


def block_norms_with_the_transformers_epsilon(head, _patch):
    for block in all_of(head, layers.ResBlock):
        block.in_layers[0].eps = block.out_layers[0].eps = 1e-6


def transformer_norms_with_the_blocks_epsilon(head, _patch):
    for transformer in all_of(head, SpatialTransformer):
        transformer.norm.eps = 1e-5


def approximate_gelu(_head, patch):
    exact = F.gelu
    patch.setattr(layers.F, "gelu", lambda x: exact(x, approximate="tanh"))


def gate_in_the_first_half(_head, patch):
    def swapped(self, x):
        gate, value = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)

    patch.setattr(layers.GEGLU, "forward", swapped)


def mean_token_left_out(_head, patch):
    whole = AttentionPool.forward
    patch.setattr(AttentionPool, "forward", lambda self, feature: whole(self, feature)[:, 1:])


def only_the_mean_token_kept(_head, patch):
    whole = AttentionPool.forward
    patch.setattr(AttentionPool, "forward", lambda self, feature: whole(self, feature)[:, :1])


def mean_token_last(_head, patch):
    def positions(self, size):
        table = self.positional_embedding
        square = table[:, 1:].reshape(1, -1, self.grid, self.grid)
        fitted = F.interpolate(square, size=size, mode="bicubic", align_corners=False)[0].flatten(1)
        return torch.cat([fitted, table[:, :1]], dim=-1)

    patch.setattr(AttentionPool, "positions", positions)


def interpolation(**options):
    def mutate(_head, patch):
        plain = F.interpolate

        def changed(x, **given):
            return plain(x, **({**given, **options} if given.get("mode") == "bicubic" else given))

        patch.setattr(layers.F, "interpolate", changed)

    return mutate


def pooled_heads_split_before_queries_and_keys(_head, patch):
    def forward(self, feature):
        flat = feature.flatten(2)
        x = torch.cat([flat.mean(dim=-1, keepdim=True), flat], dim=-1) + self.positions(feature.shape[-2:])
        q, k, v = self.qkv_proj(x).unflatten(1, (self.heads, -1)).transpose(2, 3).chunk(3, dim=-1)
        found = F.scaled_dot_product_attention(q, k, v)
        return self.c_proj(found.transpose(2, 3).flatten(1, 2)).mT

    patch.setattr(AttentionPool, "forward", forward)


def features_before_the_text(_head, patch):
    def forward(self, x, context, tokens=None):
        x = x + self.attn1(self.norm1(x))
        if self.attn3 is not None:
            x = x + self.attn3(self.norm_sd(x), tokens)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))

    patch.setattr(TransformerBlock, "forward", forward)


def features_through_the_text_norm(head, _patch):
    for block in all_of(head, TransformerBlock):
        if block.attn3 is not None:
            block.norm_sd = block.norm2


def no_activation_after_out(head, _patch):
    head.out[3] = nn.Identity()


def sines_before_cosines(_head, patch):
    right = layers.timestep_embedding

    def swapped(timesteps, width):
        return right(timesteps, width).roll(width // 2, dims=-1)

    patch.setattr(unet, "timestep_embedding", swapped)


def timestep_left_out(_head, patch):
    patch.setattr(unet, "timestep_embedding", lambda timesteps, width: torch.zeros(len(timesteps), width))


def layer_norm_epsilon(head, _patch):
    for norm in all_of(head, nn.LayerNorm):
        norm.eps = 1e-6


def sixteen_groups(head, _patch):
    for norm in all_of(head, GroupNorm):
        norm.num_groups = 16


MUTATIONS = [
    block_norms_with_the_transformers_epsilon,
    approximate_gelu,
    gate_in_the_first_half,
    mean_token_left_out,
    only_the_mean_token_kept,
    mean_token_last,
    interpolation(mode="bilinear"),
    interpolation(align_corners=True),
    pooled_heads_split_before_queries_and_keys,
    features_before_the_text,
    features_through_the_text_norm,
    no_activation_after_out,
    sines_before_cosines,
    timestep_left_out,
    layer_norm_epsilon,
    sixteen_groups,
    transformer_norms_with_the_blocks_epsilon,
]
NAMES = [getattr(mutation, "__qualname__", "").replace(".<locals>", "") for mutation in MUTATIONS]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[f"{n}-{i}" for i, n in enumerate(NAMES)])
def test_parity_is_lost_when_a_quirk_is_dropped(small_heads, recorded, monkeypatch, mutation):
    case = recorded["40x56_b1"]  # 10 x 14 tokens: the table of positions is interpolated
    head = copy.deepcopy(small_heads["ema"])
    mutation(head, monkeypatch)

    off = distance(kept(head(case["z"], case["c"], features_of(case))), case["logits_ema"])

    assert off > 3 * LOGITS_WITHIN


@pytest.mark.parametrize("size", [(12, 12), (8, 18), (6, 24), (18, 8), (144, 1)])
def test_positions_are_used_as_they_are_when_the_count_of_tokens_fits(size):
    pool = AttentionPool(32, 12, heads=4)

    assert pool.positions(size) is pool.positional_embedding


def test_positions_are_interpolated_when_the_count_differs_and_the_mean_keeps_its_own():
    pool = AttentionPool(32, 6, heads=4)

    found = pool.positions((5, 8))

    assert tuple(found.shape) == (32, 41)
    assert torch.equal(found[:, 0], pool.positional_embedding[:, 0])
    square = pool.positional_embedding[None, :, 1:].reshape(1, 32, 6, 6)
    expected = F.interpolate(square, size=(5, 8), mode="bicubic", align_corners=False)
    assert torch.equal(found[:, 1:], expected[0].flatten(1))


def test_the_middle_blocks_table_of_36_serves_a_4_by_9_feature_in_raster_order(small_heads):
    pool = small_heads["ema"].transformers()["middle_block.1"].attentionpool2D

    assert pool.positions((4, 9)) is pool.positional_embedding
    assert pool.positions((3, 12)) is pool.positional_embedding


def test_all_pooled_tokens_are_kept_with_the_mean_in_front():
    pool = AttentionPool(32, 4, heads=4)
    pool.qkv_proj.weight.data.zero_()  # attention is uniform and the values are the bias
    pool.qkv_proj.bias.data.copy_(torch.arange(96.0))
    pool.c_proj.weight.data.copy_(torch.eye(32)[:, :, None])
    pool.c_proj.bias.data.zero_()

    tokens = pool(torch.randn(2, 32, 3, 5))

    assert tuple(tokens.shape) == (2, 16, 32)
    torch.testing.assert_close(tokens[1, 7], torch.arange(64.0, 96.0))


def test_residual_blocks_and_transformers_have_their_own_epsilon(small_heads):
    head = small_heads["ema"]

    assert {t.norm.eps for t in all_of(head, SpatialTransformer)} == {1e-6}
    blocks = all_of(head, layers.ResBlock)
    assert {norm.eps for b in blocks for norm in (b.in_layers[0], b.out_layers[0])} == {1e-5}
    assert head.out[0].eps == 1e-5
    assert {norm.eps for norm in all_of(head, nn.LayerNorm)} == {1e-5}


def test_group_norm_computes_in_float32_whatever_comes_in():
    norm = GroupNorm(32, eps=1e-5).half()
    x = torch.randn(1, 32, 16, 16) * 300  # squares overflow float16

    found = norm(x.half())

    assert found.dtype == torch.float16
    expected = F.group_norm(x.half().float(), 32, None, None, 1e-5)
    assert distance(found.float(), expected) < 2e-3
