"""bench: what it measures and what it refuses."""

import json

import pytest
import torch

from ldznet.__main__ import main, parse
from ldznet.heads.narrow_storage import store_narrow
from ldznet.hosts.diffusers.random_weights import random_host
from ldznet.methods.learned_head import random_head
from ldznet.research.bench import bench, picture_bench, plain_way


def test_bench_measures_every_step_and_compares_with_the_plain_way(capsys):
    code = main(["bench", "--resolution", "64", "--prompts", "1", "2", "--repeat", "1", "--json"])

    answer = json.loads(capsys.readouterr().out)
    assert code == 0
    steps = {(timing["step"], timing["prompts"]) for timing in answer["timings"]}
    per_prompt = {"prompt encoding", "UNet, full", "UNet, early exit", "head", "whole", "whole, plain way"}
    assert steps == {("image encoding", 1), ("mask", 1)} | {(step, n) for step in per_prompt for n in (1, 2)}
    assert all(timing["median"] > 0 for timing in answer["timings"])
    assert set(answer["ratios"]) == {
        "early exit / full UNet, 1 prompt",
        "early exit / full UNet, 2 prompts",
        "2 prompts / 1 prompt",
        "plain way / ours, 1 prompt",
        "plain way / ours, 2 prompts",
    }
    assert answer["weights"]["added by us"] < answer["weights"]["added by the plain way"]


def test_bench_prints_a_table_of_markdown(capsys):
    main(["bench", "--resolution", "64", "--prompts", "1", "--repeat", "1", "--no-plain", "--channels-last", "on"])

    out = capsys.readouterr().out
    assert "| step | prompts | first, s | median, s | least, s | peak, MB |" in out
    assert "| UNet, early exit | 1 |" in out
    assert "plain way / ours" not in out


def test_bench_measures_answers_of_the_api_by_the_size_of_the_image(capsys):
    code = main(["bench", "--pictures", "128", "64", "--repeat", "1", "--json"])

    answer = json.loads(capsys.readouterr().out)
    assert code == 0
    assert [timing["step"] for timing in answer["timings"]] == ["64 px", "128 px"]
    assert list(answer["ratios"]) == ["128 px / 64 px"]
    assert answer["model"] == "tiny.safetensors"
    first, second = (picture_bench.encoded_image(64, number) for number in (0, 1))
    assert first != second == picture_bench.encoded_image(64, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pictures", "512", "9000"], "--pictures is [512, 9000], but a side is from 64 to 8192 pixels"),
        (["--resolution", "100"], "--resolution is 100, but it must be a multiple of 64"),
        (["--resolution", "0"], "--resolution is 0, but it must be a multiple of 64"),
        (["--prompts", "0"], "--prompts and --repeat must be at least 1"),
        (["--full-size", "--head", "x"], "--full-size has random weights"),
    ],
)
def test_bench_refuses_what_it_cannot_measure(capsys, arguments, said):
    assert main(["bench", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--threads", "-1"], "--threads is -1, but it must be at least 1"),
        (["--threads", "0"], "--threads is 0, but it must be at least 1"),
        (["--method", "attention"], "bench times a head, and --method attention needs none"),
        (["--device", "meta"], "The device meta cannot be used here"),
    ],
)
def test_bench_refuses_what_it_would_have_ignored(capsys, arguments, said):
    assert main(["bench", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_benchs_help_says_what_it_times_by_default(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--help"])

    text = " ".join(capsys.readouterr().out.split())
    assert "(default: a small one with random weights)" in text
    assert "models/tiny" not in text


@pytest.mark.parametrize("storage", [torch.float16, torch.int8])
def test_the_plain_way_has_float32_weights_in_the_usual_layout_whatever_ours_are(storage):
    host = random_host()
    method = random_head(host.info.unet)
    for module in (host.unet, host.vae, method.head):
        torch.nn.Module.to(module, memory_format=torch.channels_last)
    store_narrow(method.head, storage)

    plain, plain_method = plain_way._plain_copies(host, method)

    for module in (plain.unet, plain.vae, plain_method.head):
        assert all(p.dtype == torch.float32 and p.is_contiguous() for p in module.parameters())
    assert not any(layer._forward_pre_hooks for layer in plain_method.head.modules())
    assert storage in {p.dtype for p in method.head.parameters()}


@pytest.mark.parametrize(
    ("flags", "tuned"),
    [
        ([], False),
        (["--head-storage", "float16"], True),
        (["--head-storage", "int8"], True),
        (["--channels-last", "on"], True),
        (["--compile"], True),
        (["--dtype", "bfloat16"], True),
    ],
)
def test_the_plain_way_shares_our_models_only_where_they_are_plain(flags, tuned):
    parsed = parse(["bench", *flags])
    host = random_host(dtype=torch.bfloat16 if "bfloat16" in flags else torch.float32)

    assert bench._tuned(parsed, host) is tuned
