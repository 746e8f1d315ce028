"""The whole way from an image and prompts to masks, on a small random model."""

import threading
import time

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from ldznet import result
from ldznet import segmenter as module
from ldznet.errors import (
    CheckpointError,
    HeadError,
    HostError,
    ImageError,
    OptionError,
    OutOfMemoryError,
    PromptError,
)
from ldznet.heads.head_file import save_head
from ldznet.hosts.diffusers.random_weights import random_host
from ldznet.hosts.host import Context
from ldznet.images.tensors import from_tensor
from ldznet.inference import batching
from ldznet.inference.prompts import TEMPLATES, check_prompts
from ldznet.memory_errors import explain_out_of_memory
from ldznet.methods.learned_head import LearnedHead, random_head
from ldznet.methods.load import EMBEDDED
from ldznet.options import MaskOptions, SegmentOptions
from ldznet.result import Segmentation
from ldznet.segmenter import Segmenter

SMALL = SegmentOptions(resolution=128)


@pytest.fixture(scope="module")
def method(host):
    return random_head(host.info.unet)


@pytest.fixture
def segmenter(host, method):
    return Segmenter(host, method)


def picture(width=96, height=48, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def run(segmenter, prompts=("cat",), options=SMALL, image=None, **more):
    segmenter.set_image(image or picture(), options)
    return segmenter.segment(prompts, options, **more)


# --- what comes out ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(96, 64), (1, 1), (3, 2), (640, 10), (10, 640), (129, 257)])
def test_probabilities_have_the_images_own_size(segmenter, size):
    found = run(segmenter, ["cat", "dog"], image=picture(*size))

    probabilities = found.probabilities()
    assert probabilities.shape == (2, size[1], size[0])
    assert probabilities.dtype == np.float32
    assert probabilities.min() >= 0
    assert probabilities.max() <= 1
    assert np.array_equal(found.probability(1), probabilities[1])
    assert found.mask().shape == (size[1], size[0])


def test_the_probability_is_the_heads_sigmoid_of_the_hosts_latent_context_and_features(host, method):
    """The whole way, written out once more."""
    image = from_tensor(torch.rand(1, 3, 128, 192, generator=torch.Generator().manual_seed(4)) * 2 - 1)
    segmenter = Segmenter(host, method)
    segmenter.set_image(image, SegmentOptions(resolution=192))
    found = segmenter.segment("big cat", SegmentOptions(resolution=192, timesteps=(250,), seeds=(7,)))

    pixels = torch.from_numpy(np.array(image)).float().permute(2, 0, 1)[None] / 127.5 - 1
    latent = 0.18215 * host.vae.encode(pixels).mean
    context = host.encode_prompt(["a photo of a big cat."])
    noise = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(7))
    kept = host.schedule.alphas_cumprod[250].item()
    features, hooks = {}, []
    for path, layer in host.feature_modules().items():
        hooks.append(layer.register_forward_hook(lambda _m, _a, out, path=path: features.update({path: out})))
    host.unet(kept**0.5 * latent + (1 - kept) ** 0.5 * noise, torch.tensor([250]), context.tokens)
    for hook in hooks:
        hook.remove()
    logits = method.head(latent, context.tokens, features)

    assert tuple(found.maps.shape) == (1, 128, 192)
    assert (found.maps[0] - logits[0, 0].sigmoid()).abs().max() < 1e-5
    assert found.maps.std() > 0.001


def test_the_same_image_prompts_and_options_give_the_same_probabilities(host, method):
    first = run(Segmenter(host, method), ["cat", "dog"])
    torch.randn(3)  # the user's own random numbers in between
    second = run(Segmenter(host, method), ["cat", "dog"])

    assert torch.equal(first.maps, second.maps)


def test_the_users_random_states_are_left_alone(segmenter):
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()

    for randomness in ("fixed", "released"):
        run(segmenter, ["cat"], SegmentOptions(resolution=128, randomness=randomness))

    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_another_prompt_image_timestep_or_seed_gives_another_result(segmenter):
    plain = run(segmenter).maps

    assert not torch.equal(plain, run(segmenter, ["dog"]).maps)
    assert not torch.equal(plain, run(segmenter, image=picture(seed=1)).maps)
    for changed in ({"timesteps": (100,)}, {"seeds": (1,)}, {"template": "{}"}):
        assert not torch.equal(plain, run(segmenter, options=SegmentOptions(resolution=128, **changed)).maps), (
            changed
        )


def test_several_timesteps_seeds_and_sentences_are_averaged(segmenter):
    def maps(**options):
        return run(segmenter, ["cat", "dog"], SegmentOptions(resolution=128, **options)).maps

    each = [maps(timesteps=(t,), seeds=(s,)) for t in (300, 400) for s in (0, 3)]
    torch.testing.assert_close(maps(timesteps=(300, 400), seeds=(0, 3)), torch.stack(each).mean(0))

    each = [maps(template=template) for template in TEMPLATES]
    torch.testing.assert_close(maps(average_templates=True), torch.stack(each).mean(0))


def test_the_image_is_encoded_once_for_all_prompts_and_each_sentence_once(segmenter, monkeypatch):
    images, sentences = [], []
    encode_image, encode_prompt = segmenter.host.encode_image, segmenter.host.encode_prompt
    monkeypatch.setattr(segmenter.host, "encode_image", lambda *a: images.append(1) or encode_image(*a))
    monkeypatch.setattr(segmenter.host, "encode_prompt", lambda p: sentences.extend(p) or encode_prompt(p))

    segmenter.set_image(picture(), SMALL)
    for _ in range(2):
        segmenter.segment(["cat", "dog", "cat"], SMALL)

    assert len(images) == 1
    assert sentences == ["a photo of a cat.", "a photo of a dog."]


def test_the_batch_size_does_not_change_what_is_found(segmenter):
    prompts = ["cat", "dog", "house", "red car", "tree"]
    together = run(segmenter, prompts, SegmentOptions(resolution=128, batch=5)).maps

    for batch in (1, 2):
        part = run(segmenter, prompts, SegmentOptions(resolution=128, batch=batch)).maps
        torch.testing.assert_close(part, together, atol=1e-5, rtol=1e-4)


def test_progress_is_reported_up_to_the_end(segmenter):
    seen = []
    options = SegmentOptions(resolution=128, batch=2, timesteps=(300, 400))

    run(segmenter, ["a", "b", "c"], options, progress=lambda *args: seen.append(args))

    assert seen == [(2, 6), (4, 6), (5, 6), (6, 6)]


def test_the_record_says_all_that_is_needed_to_repeat_it(segmenter):
    found = run(segmenter, ["cat"], negative_prompts=["dog"])

    again = {k: found.record[k] for k in ("resolution", "timesteps", "seeds", "template", "average_templates")}
    second = run(segmenter, found.record["prompts"], SegmentOptions(**again), negative_prompts=["dog"])
    assert torch.equal(second.maps, found.maps)
    assert found.record["image_sha256"] == second.record["image_sha256"]
    assert found.record["model_fingerprint"] == segmenter.host.info.fingerprint
    assert (found.record["method"], found.record["head"]) == ("ld-znet", "random, seed 0")
    assert found.record["network_size"] == [64, 128]


@pytest.mark.parametrize("kind", ["znet", "rgbnet"])
def test_the_other_heads_work_too_and_do_not_run_the_unet(host, monkeypatch, kind):
    segmenter = Segmenter(host, random_head(host.info.unet, kind))
    monkeypatch.setattr(host, "predict_noise", lambda *_: pytest.fail("the UNet ran"))

    found = run(segmenter)

    assert found.record["method"] == kind
    assert found.maps.std() > 0


def test_a_heads_file_says_at_which_resolution_it_works(tmp_path, host, method):
    save_head(method.head, tmp_path / "h.safetensors", source={"resolution": 128}, dtype=torch.float32)
    segmenter = Segmenter(host, LearnedHead.load(tmp_path / "h.safetensors"))

    found = run(segmenter, options=SegmentOptions())

    assert found.record["network_size"] == [64, 128]
    assert torch.equal(found.maps, run(Segmenter(host, method)).maps)
    assert len(found.record["head"]) == 64


@pytest.mark.parametrize(
    ("source", "value", "reason"),
    [({}, 0.5, "never measured for this head"), ({"threshold": 0.18}, 0.18, "measured for this head")],
)
def test_a_heads_file_says_which_threshold_suits_it(tmp_path, host, method, source, value, reason):
    save_head(method.head, tmp_path / "h.safetensors", source=source)
    found = run(Segmenter(host, LearnedHead.load(tmp_path / "h.safetensors")))

    assert (found.threshold.value, found.threshold.reason) == (value, reason)
    assert found.settle(MaskOptions(grow=3)) == MaskOptions(grow=3, threshold=value)
    assert found.settle(MaskOptions(threshold=0.3)) == MaskOptions(threshold=0.3)
    # On the same probabilities, without a threshold or with that one, masks are the same.
    np.testing.assert_array_equal(found.mask(), found.mask(MaskOptions(threshold=value)))


@pytest.mark.parametrize("value", [-0.1, 1.5, "0.5", True, [0.5]])
def test_a_heads_file_with_an_impossible_threshold_is_refused(tmp_path, method, value):
    save_head(method.head, tmp_path / "h.safetensors", source={"threshold": value})

    with pytest.raises(CheckpointError, match="threshold"):
        LearnedHead.load(tmp_path / "h.safetensors")


# --- the released randomness ---------------------------------------------------------------------------


def test_released_randomness_follows_the_released_codes_draws(host, method, monkeypatch):
    seen = {}

    def record(_host, picture, prompts, draw):
        seen.update(latent=picture.latent, draw=draw, context=prompts.context)
        return torch.zeros(3, *picture.pixels.shape[2:])

    monkeypatch.setattr(method, "probability", record)
    segmenter = Segmenter(host, method)
    image = picture(64, 64)

    run(segmenter, ["cat", "dog", "cow"], SegmentOptions(resolution=64, randomness="released", seeds=(42,)), image)

    torch.manual_seed(42)
    posterior = torch.randn(1, 4, 8, 8)
    torch.randint(0, 1, (1,))
    templates = torch.multinomial(torch.ones(9), 3, replacement=True)
    timesteps = torch.randint(300, 500, (3,))
    noise = torch.randn(3, 4, 8, 8)
    assert torch.equal(seen["draw"].timesteps, timesteps)
    assert torch.equal(seen["draw"].noise, noise)
    pixels = torch.from_numpy(np.array(image)).float().permute(2, 0, 1)[None] / 127.5 - 1
    torch.testing.assert_close(seen["latent"], host.encode_image(pixels, posterior))
    sentences = [TEMPLATES[t].format(p) for t, p in zip(templates, ("cat", "dog", "cow"), strict=True)]
    assert torch.equal(seen["context"].tokens, host.encode_prompt(sentences).tokens)


def test_released_randomness_is_repeatable_by_its_seed(segmenter):
    def maps(seed):
        options = SegmentOptions(resolution=128, randomness="released", seeds=(seed,))
        return run(segmenter, ["cat", "dog"], options).maps

    assert torch.equal(maps(1), maps(1))
    assert not torch.equal(maps(1), maps(2))


# --- prompts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "bucket",
        "a (red:1.2) [car|bus]",
        "🪣",
        "Straße",
        "ведро",
        "桶",
        "دلو",
        "a\nb\tc",
        "👨\u200d👩\u200d👧",
        "क्षत्रिय",
        "می\u200cخواهم",
        "e\u0301",
        "< |endoftext| >",
        "-",
        "{}",
        "%s",
        "x" * 2000,
    ],
)
def test_any_text_is_a_prompt_taken_literally(segmenter, text):
    found = run(segmenter, [text])

    assert found.prompts == (text,)
    assert found.maps.isfinite().all()


def test_control_characters_part_words_as_spaces_do():
    found = check_prompts(["\x1fcat\x1fdog\x00", "a\x85b\x7fc\x0bd"], "red\x07")

    assert found == (("cat dog", "a b c d"), ("red",))


def test_a_prompt_that_is_too_long_is_cut_and_said_to_be_so(segmenter):
    found = run(segmenter, ["cat", "word " * 100])

    assert len(found.notes) == 1
    assert found.notes[0].startswith('Prompt 2 ("word word')
    assert "is longer than the text encoder reads; its end was ignored" in found.notes[0]


def test_negative_prompts_that_are_too_long_have_numbers_of_their_own(segmenter):
    segmenter.set_image(picture(), SMALL)

    found = segmenter.segment(["cat", "word " * 100], SMALL, negative_prompts=["text " * 100, "dog"])

    assert [note[:25] for note in found.notes] == ['Prompt 2 ("word word word', 'Negative prompt 1 ("text ']


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ([], "There is no prompt"),
        ([""], "Prompt 1 is empty. Say what to look for"),
        (["cat", " \n"], "Prompt 2 is empty"),
        (["\x00\x1f"], "Prompt 1 is empty"),
        (["cat <|endoftext|> dog"], r"Prompt 1 holds <\|endoftext\|>, which the model takes for .* Leave it out"),
        (["<|StartOfText|>"], r"Prompt 1 holds <\|StartOfText\|>"),
        (["cat", 7], "Prompt 2 is 7, but it must be a text"),
        (["x" * 2001], "Prompt 1 has 2001 characters; at most 2000 are read"),
        (["\ud83d"], "Prompt 1 holds half a character"),
        (["cat"] * 1001, "There are 1001 prompts; at most 1000"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_an_error_before_any_work(segmenter, prompts, said):
    segmenter.set_image(picture(), SMALL)

    with pytest.raises((OptionError, PromptError), match=said):
        segmenter.segment(prompts, SMALL)


def test_a_bad_negative_prompt_is_named_as_one(segmenter):
    segmenter.set_image(picture(), SMALL)

    with pytest.raises(PromptError, match="Negative prompt 1 is empty"):
        segmenter.segment(["cat"], SMALL, negative_prompts=[" "])


def test_a_hundred_prompts_run_at_once(segmenter):
    found = run(segmenter, [f"thing {n}" for n in range(100)], SegmentOptions(resolution=64))

    assert len(found) == 100
    for n in (0, 57, 99):
        alone = run(segmenter, [f"thing {n}"], SegmentOptions(resolution=64))
        np.testing.assert_allclose(found.probability(n), alone.probability(0), atol=1e-5)


def test_a_hundred_prompts_on_an_8192_px_picture_never_hold_a_hundred_large_maps(segmenter, monkeypatch):
    image = Image.new("RGB", (8192, 8192), (90, 120, 60))
    segmenter.set_image(image, SegmentOptions(resolution=64))
    found = segmenter.segment([f"thing {n}" for n in range(100)], SegmentOptions(resolution=64))
    alive, most = [], []
    enlarge = result.to_image_size

    def counted(probability, size):
        import weakref

        made = enlarge(probability, (64, 64))  # small ones, so that the test is quick
        alive.append(weakref.ref(made))
        most.append(sum(reference() is not None for reference in alive))
        return made

    monkeypatch.setattr(result, "to_image_size", counted)
    mask = found.mask()

    assert found.maps.numel() * 4 < 2e6
    assert mask.shape == (64, 64)
    assert len(alive) == 100
    assert max(most) <= 3


def test_a_mask_of_the_largest_picture_is_made_at_its_own_size(segmenter):
    segmenter.set_image(Image.new("RGB", (8192, 8192), (90, 120, 60)), SegmentOptions(resolution=64))
    found = segmenter.segment("cat", SegmentOptions(resolution=64))

    assert found.mask(MaskOptions(threshold=0.1)).shape == (8192, 8192)


# --- masks ---------------------------------------------------------------------------------------------


def test_negative_prompts_take_away_what_they_find(segmenter):
    plain = run(segmenter, ["cat"])
    found = run(segmenter, ["cat"], negative_prompts=["dog"])

    dog = run(segmenter, ["dog"]).probability(0)
    left = found.probability(0) * (1 - dog)
    level = float(np.median(left))
    disagreeing = (found.mask(MaskOptions(threshold=level)) > 0) != (left >= level)
    assert (np.abs(left[disagreeing] - level) < 1e-5).all()  # batches of another size round differently
    np.testing.assert_allclose(found.probability(0), plain.probability(0), atol=1e-5)
    assert found.prompt_statistics()[0]["highest"] == pytest.approx(float(left.max()), abs=1e-5)


def test_what_was_found_is_measured_inside_each_prompts_own_mask(segmenter):
    found = run(segmenter, ["cat", "dog"])
    level = float(np.quantile(found.probability(1), 0.9))

    answer = found.prompt_statistics(MaskOptions(threshold=level))[1]

    inside = found.probability(1) >= level
    rows, columns = np.nonzero(inside)
    assert answer["prompt"] == "dog"
    assert answer["area"] == inside.sum()
    assert answer["box"] == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert answer["probability"] == pytest.approx(float(found.probability(1)[inside].mean()), abs=1e-6)


def blobs(*prompts, size=(40, 60)):
    """Maps of one rectangle for each: (prompt, probability, (x0, y0, x1, y1))."""
    names = tuple(dict.fromkeys(name for name, _, _ in prompts))
    maps = torch.zeros(len(names), *size)
    for name, probability, (x0, y0, x1, y1) in prompts:
        maps[names.index(name), y0:y1, x0:x1] = probability
    return Segmentation(names, (), size, maps, {}, ())


def test_every_object_is_reported_with_its_area_box_prompt_and_probability():
    found = blobs(("cat", 0.75, (2, 2, 12, 12)), ("dog", 0.875, (30, 5, 50, 25)), ("cat", 0.5, (2, 30, 7, 35)))
    options = MaskOptions(threshold=0.25)

    told = found.object_statistics(found.objects(options), selection=(1, 3))

    assert [one["prompt"] for one in told] == ["dog", "cat", "cat"]
    assert [one["selected"] for one in told] == [True, False, True]
    assert told[1] == {
        "number": 2,
        "prompt": "cat",
        "area": 100,
        "share": 100 / 2400,
        "box": (2, 2, 12, 12),
        "probability": 0.75,
        "selected": False,
    }


def test_an_object_in_several_strips_of_a_large_image_is_counted_once():
    found = blobs(("cat", 0.75, (10, 20, 20, 780)), size=(800, 3000))  # strips of 349 rows

    (cat,) = found.object_statistics(found.objects())

    assert (cat["area"], cat["box"], cat["probability"]) == (7600, (10, 20, 20, 780), 0.75)


def test_a_mask_of_one_prompt_has_all_of_its_objects():
    found = blobs(("cat", 0.75, (2, 2, 12, 12)), ("dog", 0.875, (30, 5, 50, 25)))
    first = MaskOptions(objects=(1,))

    assert found.mask(first).sum() == 400
    assert found.mask(first, only=0).sum() == 100
    assert [one["area"] for one in found.prompt_statistics(first)] == [100, 400]


def test_where_nothing_is_found_there_is_no_object():
    found = blobs(("cat", 0.25, (2, 2, 12, 12)))

    assert found.object_statistics(found.objects()) == []


def test_candidates_are_of_the_map_that_the_mask_is_made_of():
    found = blobs(("cat", 0.9, (0, 0, 20, 20)), ("dog", 0.3, (10, 0, 40, 20)))

    areas = {
        combine: [one.area for one in found.candidates(MaskOptions(combine=combine))]
        for combine in ("union", "intersection", "difference")
    }

    assert areas == {"union": [400, 800], "intersection": [200], "difference": [400]}


def test_nothing_found_is_an_empty_mask_with_no_box(segmenter):
    found = run(segmenter)

    answer = found.prompt_statistics(MaskOptions(threshold=1.0))[0]

    assert not found.mask(MaskOptions(threshold=1.0)).any()
    assert (answer["area"], answer["box"], answer["probability"]) == (0, None, 0.0)


def test_there_is_no_probability_beyond_the_prompts(segmenter):
    found = run(segmenter, ["cat"], negative_prompts=["dog"])

    assert len(list(found)) == 1
    with pytest.raises(IndexError, match="The index is 1, but there are 1 prompts"):
        found.probability(1)


# --- what can go wrong -----------------------------------------------------------------------------------


def test_segmenting_before_there_is_an_image_is_refused(segmenter):
    with pytest.raises(ImageError, match=r"There is no image to segment yet. Call set_image"):
        segmenter.segment("cat")


def test_an_image_that_cannot_be_read_drops_the_previous_image(segmenter, tmp_path):
    (tmp_path / "x.png").write_bytes(b"no image")
    run(segmenter)

    with pytest.raises(ImageError):
        segmenter.set_image(tmp_path / "x.png")
    with pytest.raises(ImageError, match="no image to segment"):
        segmenter.segment("cat")


def test_transparency_shows_the_background_of_the_options(segmenter):
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))

    segmenter.set_image(image, SegmentOptions(resolution=64, background="#0080ff"))

    assert segmenter.image.getpixel((5, 5)) == (0, 128, 255)


def test_a_head_for_another_model_is_refused_before_any_work(method):
    with pytest.raises(HeadError, match="does not fit the loaded model"):
        Segmenter(random_host(in_channels=9), method)


def test_out_of_memory_halves_the_batch_down_to_what_fits(segmenter, monkeypatch):
    expected = run(segmenter, ["a", "b", "c", "d", "e"], SegmentOptions(resolution=64, batch=2)).maps
    batches, cleared = [], []
    plain = segmenter.host.predict_noise

    def tight(noisy_latent, timesteps, context):
        batches.append(len(context))
        if len(context) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return plain(noisy_latent, timesteps, context)

    monkeypatch.setattr(segmenter.host, "predict_noise", tight)
    monkeypatch.setattr(segmenter.host, "clear_memory", lambda: cleared.append(1))
    progress = []
    options = SegmentOptions(resolution=64, batch=5)
    found = run(segmenter, ["a", "b", "c", "d", "e"], options, progress=lambda *args: progress.append(args))

    assert batches == [5, 2, 2, 1]
    assert len(cleared) == 1
    assert torch.equal(found.maps, expected)
    assert progress[-1] == (5, 5)


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("MPS backend out of memory"),
        MemoryError(),
    ],
)
def test_when_not_even_one_prompt_fits_the_error_says_what_to_do(segmenter, monkeypatch, error):
    def tight(*_args):
        raise error

    segmenter.set_image(picture(), SMALL)
    monkeypatch.setattr(segmenter.host, "predict_noise", tight)

    with pytest.raises(OutOfMemoryError, match=r"One prompt at 128 x 64 does not fit into memory. Give a lower"):
        segmenter.segment(["a", "b"], SMALL)


def test_an_image_that_does_not_fit_is_an_error_too(segmenter, monkeypatch):
    def tight(*_args):
        raise MemoryError

    monkeypatch.setattr(segmenter.host, "encode_image", tight)

    with pytest.raises(OutOfMemoryError, match="Encoding the image at 128 x 64 does not fit"):
        segmenter.set_image(picture(), SMALL)


def test_values_that_are_no_numbers_are_an_error_and_never_a_mask(segmenter, monkeypatch):
    monkeypatch.setattr(segmenter.method, "probability", lambda *_: torch.full((1, 64, 128), float("nan")))
    segmenter.set_image(picture(), SMALL)

    with pytest.raises(HostError, match=r"ld-znet method gave values that are not numbers \(NaN\) in float32"):
        segmenter.segment("cat", SMALL)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_whole_way_works_in_half_precision(host, method, dtype):
    exact = run(Segmenter(host, method), ["cat", "dog"]).maps
    narrow_host = random_host(dtype=dtype)
    narrow_method = random_head(narrow_host.info.unet)
    narrow_method.head.to(dtype)

    found = run(Segmenter(narrow_host, narrow_method), ["cat", "dog"])

    assert found.record["dtype"] == str(dtype).removeprefix("torch.")
    assert found.maps.dtype == torch.float32
    assert (found.maps - exact).abs().mean() < (0.02 if dtype == torch.float16 else 0.1)


def test_an_error_of_the_program_is_not_taken_for_a_lack_of_memory(segmenter, monkeypatch):
    def broken(*_args):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    segmenter.set_image(picture(), SMALL)
    monkeypatch.setattr(segmenter.host, "predict_noise", broken)

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        segmenter.segment("cat", SMALL)


def test_contexts_are_forgotten_when_there_are_too_many(segmenter, monkeypatch):
    monkeypatch.setattr(batching, "_MOST_CONTEXTS", 3)
    run(segmenter, ["a", "b", "c", "d", "e"], SegmentOptions(resolution=64))

    assert list(segmenter._runner._contexts) == ["a photo of a c.", "a photo of a d.", "a photo of a e."]


def test_of_one_image_the_last_resolutions_are_kept(segmenter, monkeypatch):
    monkeypatch.setattr(module, "_MOST_ENCODED", 2)
    segmenter.set_image(picture())
    first = segmenter.segment("cat", SegmentOptions(resolution=64)).probabilities()

    for resolution in (128, 192):
        segmenter.segment("cat", SegmentOptions(resolution=resolution))

    assert len(segmenter._encoded) == 2
    assert np.array_equal(segmenter.segment("cat", SegmentOptions(resolution=64)).probabilities(), first)


def test_contexts_join_in_order():
    first, second = (
        Context(torch.zeros(1, 2, 3), None, (False,)),
        Context(torch.ones(2, 2, 3), None, (True, False)),
    )

    joined = Context.join([second, first])

    assert joined.tokens[:, 0, 0].tolist() == [1, 1, 0]
    assert joined.cut == (True, False, False)


# --- what a program may give -----------------------------------------------------------------------------


def test_the_background_in_the_record_is_the_one_that_was_used(segmenter):
    clear = Image.fromarray(np.zeros((64, 96, 4), np.uint8))
    black = SegmentOptions(resolution=64, background="#000000")
    at_once = run(segmenter, options=black, image=clear)

    segmenter.set_image(clear)
    white = segmenter.segment("cat", SegmentOptions(resolution=64))
    later = segmenter.segment("cat", black)

    assert torch.equal(later.maps, at_once.maps)
    assert not torch.equal(later.maps, white.maps)
    assert later.record["image_sha256"] == at_once.record["image_sha256"] != white.record["image_sha256"]
    assert segmenter.image.getpixel((0, 0)) == (0, 0, 0)


def test_another_background_does_not_encode_an_opaque_image_again(segmenter, monkeypatch):
    segmenter.set_image(picture(), SMALL)
    monkeypatch.setattr(segmenter.host, "encode_image", lambda *_: pytest.fail("encoded again"))

    segmenter.segment("cat", SegmentOptions(resolution=128, background="#000000"))


def test_one_negative_prompt_may_be_a_text_as_one_prompt_may(segmenter):
    found = run(segmenter, "cat", negative_prompts="grass")

    assert (found.prompts, found.negative_prompts) == (("cat",), ("grass",))


def test_with_several_negative_prompts_one_after_the_other_gives_what_each_alone_gives():
    maps = torch.rand(5, 12, 16, generator=torch.Generator().manual_seed(3))
    found = Segmentation(("a", "b", "c"), ("d", "e"), (24, 32), maps, {}, ())
    options = MaskOptions(threshold=0.2)
    alone = [found.mask(options, only=index) for index in range(3)]

    np.testing.assert_allclose(
        list(found.each_net_probability()), [found.net_probability(index) for index in range(3)], atol=1e-6
    )
    assert np.array_equal(list(found.each_mask(options)), alone)
    assert [one["area"] for one in found.prompt_statistics(options)] == [
        int((mask >= 0.5).sum()) for mask in alone
    ]
    plain = Segmentation(("a", "b", "c"), (), (24, 32), maps[:3], {}, ())
    assert all(less.sum() < more.sum() for less, more in zip(alone, plain.each_mask(options), strict=True))


def test_what_the_negative_prompts_leave_is_what_masks_are_made_of(segmenter):
    found = run(segmenter, ["cat", "dog"], negative_prompts=["grass"])
    plain, negative = found.probability(1), found.mask(MaskOptions(threshold=1), only=1)

    wanted = found.net_probability(1)

    assert (wanted <= plain).all()
    assert (wanted < plain).any()
    assert not negative.any()
    level = float(np.median(wanted))
    assert np.array_equal(found.mask(MaskOptions(threshold=level), only=1) > 0, wanted >= np.float32(level))
    alone = run(segmenter, ["cat", "dog"])
    assert np.array_equal(alone.net_probability(1), alone.probability(1))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda s: s.segment(None), "prompts is None, but it must be texts"),
        (lambda s: s.segment("cat", negative_prompts=5), "negative_prompts is 5, but it must be texts"),
        (lambda s: s.segment("cat", MaskOptions()), r"options is MaskOptions\(.*but it must be SegmentOptions"),
        (lambda s: s.set_image(picture(), {}), r"options is {}, but it must be SegmentOptions"),
        (
            lambda s: s.segment("cat", SMALL).mask(SMALL),
            r"options is SegmentOptions\(.*but it must be MaskOptions",
        ),
        (lambda s: s.segment("cat", SMALL).each_mask(5), "options is 5, but it must be MaskOptions"),
        (lambda s: s.segment("cat", SMALL).candidates(5), "options is 5, but it must be MaskOptions"),
        (lambda s: s.segment("cat", SMALL).probability("a"), "index is 'a', but it must be a whole number"),
        (lambda _: Segmenter.load(5), "checkpoint is 5, but it must be a path"),
        (lambda _: Segmenter.load("a.safetensors", head=5), "head is 5, but it must be a path"),
        (lambda _: Segmenter.load("a.safetensors", method=5), "The method 5 is not known: give one of auto"),
        (lambda _: Segmenter.load("a.safetensors", device="warp"), "The device warp cannot be used here"),
        (lambda _: Segmenter.load("a.safetensors", device="cuda:99"), "The device cuda:99 cannot be used here"),
    ],
)
def test_a_value_of_a_wrong_type_is_an_error_that_names_it(segmenter, call, said):
    segmenter.set_image(picture(), SMALL)

    with pytest.raises((OptionError, PromptError), match=said):
        call(segmenter)


def test_a_lack_of_memory_is_recognised_among_errors_of_opencv():
    def resize(side):
        with explain_out_of_memory("The picture"):
            cv2.resize(np.zeros((2, 2), np.float32), (side, side))

    with pytest.raises(OutOfMemoryError, match="The picture does not fit into the memory that is free"):
        resize(2**30)
    with pytest.raises(cv2.error):
        resize(0)


def test_a_head_runs_for_one_thread_at_a_time(host, monkeypatch):
    """Weights that rest in half precision are widened where they are."""
    method, inside, most = random_head(host.info.unet, "znet"), [], []

    def forward(latent, *_):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()
        return torch.zeros(1, 1, 64, 128)

    monkeypatch.setattr(method.head, "forward", forward)
    threads = [threading.Thread(target=run, args=(Segmenter(host, method),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == [1, 1, 1]


def test_the_record_says_in_which_precision_the_heads_weights_rest(host, tmp_path, method):
    save_head(method.head, tmp_path / "h.safetensors", source={})
    narrow = LearnedHead.load(tmp_path / "h.safetensors", dtype=torch.float32, storage=torch.bfloat16)

    assert (narrow.record["head_dtype"], narrow.record["head_storage"]) == ("float32", "bfloat16")
    assert (method.record["head_dtype"], method.record["head_storage"]) == ("float32", "float32")


# --- loading ---------------------------------------------------------------------------------------------


def test_load_takes_the_head_that_fits_the_model():
    segmenter = Segmenter.load(EMBEDDED, device="cpu")

    assert segmenter.method.name == "ld-znet"
    assert segmenter.host.info.name == EMBEDDED.name
    assert segmenter.host.dtype == torch.float32


def test_load_takes_the_method_or_the_head_of_its_arguments(tmp_path):
    attention = Segmenter.load(str(EMBEDDED), device="cpu", method="attention")
    save_head(random_head(attention.host.info.unet, "znet").head, tmp_path / "znet.safetensors", source={})

    assert attention.method.name == "attention"
    assert Segmenter.load(EMBEDDED, tmp_path / "znet.safetensors", "cpu").method.name == "znet"
    with pytest.raises(OptionError, match="The method attention needs no head"):
        Segmenter.load(EMBEDDED, tmp_path / "znet.safetensors", "cpu", method="attention")


def test_without_a_gpu_cuda_is_refused_in_words(monkeypatch):
    def missing(*_args, **_more):
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr(torch, "empty", missing)

    with pytest.raises(OptionError, match=r"The device cuda cannot be used here \(Torch not compiled with CUDA"):
        Segmenter.load(EMBEDDED, device="cuda")
