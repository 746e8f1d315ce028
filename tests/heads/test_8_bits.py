"""Heads in 8 bits: small in files and in memory, nearly exact, and refused in words where they are not known."""

import copy
import json

import pytest
import torch
from conftest import CASES, features_of
from parity_weights import released_checkpoint
from safetensors.torch import load_file, safe_open, save_file
from torch import nn

from ldznet.errors import CheckpointError
from ldznet.heads import narrow_storage
from ldznet.heads.convert import convert
from ldznet.heads.head_file import (
    HeadConfig,
    load_head,
    read_head_info,
    save_head,
    verify_digest,
    write_threshold,
)
from ldznet.heads.narrow_storage import names_in_8_bits, quantised, store_in_8_bits, wide_state, widened
from ldznet.methods.learned_head import LearnedHead

CHECKPOINT = released_checkpoint()


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    path = tmp_path_factory.mktemp("heads") / "head.safetensors"
    return convert(released_checkpoint(), path, heads=4, dtype=torch.int8)


def test_a_weight_is_a_whole_number_times_the_scale_of_its_output_channel():
    weight = torch.tensor([[1.27, -0.635, 0.0, 0.014], [0.0, 0.0, 0.0, 0.0], [-254.0, 2.0, 127.0, 5.0]])

    whole, scale = quantised(weight)

    assert whole.tolist() == [[127, -64, 0, 1], [0, 0, 0, 0], [-127, 1, 64, 2]]
    torch.testing.assert_close(scale, torch.tensor([0.01, 1.0, 2.0]))
    expected = torch.tensor([[1.27, -0.64, 0.0, 0.01], [0.0, 0.0, 0.0, 0.0], [-254.0, 2.0, 128.0, 4.0]])
    torch.testing.assert_close(widened(whole, scale, torch.float32), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_large_weight_is_widened_in_parts_and_rounded_once(monkeypatch, dtype):
    monkeypatch.setattr(narrow_storage, "_PART", 100)
    whole, scale = quantised(torch.randn(33, 9, 3, 3))

    found = widened(whole, scale, dtype)

    assert torch.equal(found, (whole.float() * scale[:, None, None, None]).to(dtype))


def test_the_large_layers_of_the_released_head_are_in_8_bits_and_nearly_all_its_weights(released_shapes):
    names = names_in_8_bits(HeadConfig())

    count = {name: torch.Size(shape).numel() for name, shape in released_shapes.items()}
    share = sum(count[name] for name in names) / sum(count.values())
    assert 0.998 < share < 1
    rest = {name for name in count if name not in names and len(released_shapes[name]) > 1}
    assert {name for name in rest if not name.startswith("final.") and "positional" not in name} == {
        "input_blocks.0.0.weight",
        "out.2.weight",
    }


def test_a_full_size_head_takes_less_than_a_gigabyte_and_one_wide_layer_more(released_shapes):
    names = names_in_8_bits(HeadConfig())
    count = {name: torch.Size(shape).numel() for name, shape in released_shapes.items()}

    # Whole numbers, a scale of 4 bytes per channel, and float32 for what is not in 8 bits.
    rest = sum(n if name in names else 4 * n for name, n in count.items())
    rest += sum(4 * released_shapes[name][0] for name in names)
    widest = 4 * max(count.values())

    assert rest == 931_238_624
    assert rest + widest == 1_049_203_424


@pytest.mark.parametrize("weights", ["ema", "raw"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("dtype", "logits_within", "probability_within"),
    [(torch.float32, 0.3, 0.04), (torch.float16, 0.3, 0.04), (torch.bfloat16, 0.6, 0.08)],
)
def test_a_head_in_8_bits_stays_within_its_bound_of_float32(
    small_heads, recorded, name, weights, dtype, logits_within, probability_within
):
    case, narrow = recorded[name], copy.deepcopy(small_heads[weights])
    exact = small_heads[weights](case["z"], case["c"], features_of(case))
    store_in_8_bits(narrow, dtype)

    logits = narrow(case["z"], case["c"], features_of(case))

    assert logits.dtype == dtype
    assert 1e-3 < (logits.float() - exact).abs().max() < logits_within
    assert (logits.float().sigmoid() - exact.sigmoid()).abs().max() < probability_within


def test_it_computes_with_the_widened_weights_and_rests_in_8_bits_again(small_heads, recorded):
    case, narrow = recorded["40x56_b1"], copy.deepcopy(small_heads["raw"])
    store_in_8_bits(narrow, torch.float32)
    wide = copy.deepcopy(small_heads["raw"])
    wide.load_state_dict(wide_state(narrow))

    found = narrow(case["z"], case["c"], features_of(case))

    assert torch.equal(found, wide(case["z"], case["c"], features_of(case)))
    names = names_in_8_bits(narrow.config)
    assert {name for name, p in narrow.named_parameters() if p.dtype == torch.int8} == names
    assert torch.equal(narrow(case["z"], case["c"], features_of(case)), found)


def test_the_wide_weights_of_one_layer_are_in_memory_at_once(small_heads, recorded):
    case, narrow = recorded["48x48_b1"], copy.deepcopy(small_heads["ema"])
    largest = max(p.numel() for p in narrow.parameters())
    store_in_8_bits(narrow, torch.float32)
    wide = []
    for layer in narrow.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_pre_hook(lambda layer, _args: wide.append(layer.weight.untyped_storage()))

    narrow(case["z"], case["c"], features_of(case))

    in_8_bits = {storage.data_ptr() for storage in wide if storage.nbytes() == 4 * largest}
    assert len(in_8_bits) == 1
    assert all(p.dtype == torch.int8 or p.numel() < largest for p in narrow.parameters())


def test_convert_writes_whole_numbers_scales_and_a_mark(converted, small_heads):
    tensors, names = load_file(converted.path), names_in_8_bits(converted.config)

    assert converted.dtype == "int8"
    assert converted.bytes < 0.6 * converted.parameters * 2
    assert {name for name, tensor in tensors.items() if tensor.dtype == torch.int8} == names
    state = small_heads["ema"].state_dict()
    assert len(tensors) == len(state) + len(names)
    for name in state:
        if name not in names:
            assert torch.equal(tensors[name], state[name].float()), name
            continue
        whole, scale = quantised(state[name])
        assert torch.equal(tensors[name], whole)
        assert torch.equal(tensors[f"{name}_scale"], scale)
    info = read_head_info(converted.path)
    assert info.in_8_bits
    assert info.config == small_heads["ema"].config
    verify_digest(converted.path, converted.sha256)


def test_a_file_in_8_bits_is_loaded_as_it_is(converted, small_heads, recorded):
    case = recorded["64x48_b1"]
    expected = copy.deepcopy(small_heads["ema"])
    store_in_8_bits(expected, torch.float32)

    method = LearnedHead.load(converted.path, dtype=torch.float32, storage=torch.float16)

    assert (method.record["head_dtype"], method.record["head_storage"]) == ("float32", "int8")
    logits = method.head(case["z"], case["c"], features_of(case))
    assert torch.equal(logits, expected(case["z"], case["c"], features_of(case)))


def test_a_file_in_16_bits_is_loaded_in_8_where_asked(tmp_path, small_heads, recorded):
    case = recorded["64x48_b1"]
    save_head(small_heads["ema"], tmp_path / "h.safetensors", source={})  # exact in float16
    expected = copy.deepcopy(small_heads["ema"])
    store_in_8_bits(expected, torch.float32)

    method = LearnedHead.load(tmp_path / "h.safetensors", dtype=torch.float32, storage=torch.int8)

    assert (method.record["head_dtype"], method.record["head_storage"]) == ("float32", "int8")
    logits = method.head(case["z"], case["c"], features_of(case))
    assert torch.equal(logits, expected(case["z"], case["c"], features_of(case)))


@pytest.mark.parametrize(
    ("stored", "computed"),
    [(torch.int8, torch.float16), (torch.bfloat16, torch.bfloat16), (torch.float32, torch.float16)],
)
def test_it_computes_in_half_precision_unless_told_otherwise(tmp_path, small_heads, stored, computed):
    save_head(small_heads["raw"], tmp_path / "h.safetensors", source={}, dtype=stored)

    head = load_head(tmp_path / "h.safetensors", in_8_bits=True)

    assert head.dtype == computed
    assert {p.dtype for p in head.parameters()} == {torch.int8, computed}


def test_a_threshold_is_written_into_a_file_in_8_bits_and_changes_no_weight(tmp_path, converted):
    path = tmp_path / "head.safetensors"
    path.write_bytes(converted.path.read_bytes())
    before = load_file(path)

    write_threshold(path, 0.25)

    info, after = read_head_info(path), load_file(path)
    assert (info.in_8_bits, info.source["threshold"]) == (True, 0.25)
    assert {name: tensor.dtype for name, tensor in after.items()} == {n: t.dtype for n, t in before.items()}
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-6, atol=0)


def test_a_head_moves_with_its_scales(converted):
    method = LearnedHead.load(converted.path, dtype=torch.float16)

    method.to("meta")

    assert {tensor.device.type for tensor in method.head.state_dict().values()} == {"meta"}


def test_damage_is_noticed(tmp_path, converted):
    tensors = load_file(converted.path)
    with safe_open(str(converted.path), "pt") as file:
        metadata = file.metadata()

    def refused(**changes):
        kept = {name: tensor for name, tensor in {**tensors, **changes}.items() if tensor is not None}
        save_file(kept, tmp_path / "x.safetensors", metadata)
        with pytest.raises(CheckpointError) as error:
            load_head(tmp_path / "x.safetensors", verify=False)
        return str(error.value)

    name = "middle_block.1.proj_in.weight"
    scale = tensors[f"{name}_scale"].clone()
    scale[3] = float("nan")
    assert "not finite" in refused(**{f"{name}_scale": scale})
    assert f"1 missing: {name}_scale" in refused(**{f"{name}_scale": None})
    assert "not in 8 bits. Copy it again." in refused(**{name: tensors[name].float()})
    assert "which is not a weight" in refused(**{"out.0.bias": tensors["out.0.bias"].to(torch.int8)})


def test_a_version_that_does_not_know_8_bits_refuses_the_file_as_one_of_another_version(converted):
    with safe_open(str(converted.path), "pt") as file:
        text = file.metadata()["ldznet.config"]

    # What such a version does with the header, before it looks at any weight.
    with pytest.raises(CheckpointError) as error:
        HeadConfig.from_json(text)

    assert "stored_in_8_bits" in str(error.value)
    assert "written by another version of ldznet: convert the head again, or update ldznet" in str(error.value)


def test_a_head_of_before_has_the_same_header_as_before(tmp_path, small_heads):
    save_head(small_heads["raw"], tmp_path / "h.safetensors", source={})

    with safe_open(str(tmp_path / "h.safetensors"), "pt") as file:
        text = file.metadata()["ldznet.config"]
    assert text == small_heads["raw"].config.to_json()
    assert "8_bits" not in text
    assert json.loads(text)["kind"] == "ld-znet"
    assert not read_head_info(tmp_path / "h.safetensors").in_8_bits
