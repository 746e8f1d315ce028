"""The coarse map of the paper: conditional minus unconditional noise prediction."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from ldznet.errors import OptionError
from ldznet.heads.unet import UNetConfig
from ldznet.hosts.diffusers.random_weights import random_host
from ldznet.methods.method import EncodedImage, Prompts, RandomInputs
from ldznet.methods.noise_difference import DifferenceMethod, DifferenceOptions, blur_maps
from ldznet.options import SegmentOptions
from ldznet.segmenter import Segmenter

HOSTS = {"sd1": {}, "sd2": {"prediction": "v"}, "sdxl": {}}


@pytest.fixture(scope="module", params=HOSTS)
def host(request):
    return random_host(request.param, **HOSTS[request.param])


@pytest.fixture(scope="module")
def plain_host():
    return random_host()


def a_picture(host, height=64, width=128, seed=0):
    pixels = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return EncodedImage(pixels, host.encode_image(pixels))


def a_draw(picture, prompts=1, timestep=400, seed=0):
    noise = torch.randn(picture.latent.shape, generator=torch.Generator().manual_seed(seed))
    return RandomInputs(torch.full((prompts,), timestep), noise, seed)


def prompts_of(host, *phrases):
    return Prompts(phrases, ("a picture of a {}.",) * len(phrases), host.encode_prompt)


def probability(host, *phrases, picture=None, draw=None, **options):
    picture = picture or a_picture(host)
    draw = draw or a_draw(picture, len(phrases))
    method = DifferenceMethod(DifferenceOptions(**options))
    return method.probability(host, picture, prompts_of(host, *phrases), draw)


def plain_heat(host, picture, phrase, timestep, seed, noises):
    """Pixel by pixel, noise by noise."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.tensor([timestep])
    height, width = picture.latent.shape[2:]
    heat = np.zeros((height, width))
    for _ in range(noises):
        noise = torch.randn(picture.latent.shape, generator=generator)
        noisy_latent = host.add_noise(picture.latent, noise, t)
        answers = [
            host.predict_noise(noisy_latent, t, host.encode_prompt([text]))[0].double().numpy()
            for text in (f"a picture of a {phrase}.", "")
        ]
        for y in range(height):
            for x in range(width):
                heat[y, x] += sum((answers[0][c, y, x] - answers[1][c, y, x]) ** 2 for c in range(4)) ** 0.5
    return heat / noises


def test_it_is_the_mean_norm_of_conditional_minus_unconditional_noise(host):
    picture = a_picture(host)
    heat = plain_heat(host, picture, "cat", 400, seed=3, noises=2)
    expected = np.clip(heat / (1.2 * heat.mean()), 0, 1)

    found = probability(host, "cat", picture=picture, draw=a_draw(picture, seed=3), noises=2, clamp=1.2, blur=0.0)

    enlarged = torch.nn.functional.interpolate(
        torch.from_numpy(expected)[None, None].float(), size=(64, 128), mode="bicubic"
    )
    assert (found - enlarged[0].clamp(0, 1)).abs().max() < 1e-3
    assert found.std() > 0.05


def test_the_noises_are_the_drawn_one_and_others_of_the_seed(plain_host, monkeypatch):
    seen = []
    add_noise = plain_host.add_noise
    monkeypatch.setattr(plain_host, "add_noise", lambda z, noise, t: seen.append(noise) or add_noise(z, noise, t))
    picture = a_picture(plain_host)
    draw = a_draw(picture)

    probability(plain_host, "cat", picture=picture, draw=draw, noises=5, rows=4)

    assert [len(noise) for noise in seen] == [2, 2, 1]
    noises = torch.cat(seen)
    assert torch.equal(noises[:1], draw.noise)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(noises[:1], torch.randn(1, 4, 8, 16, generator=generator))
    assert torch.equal(noises[1:], torch.randn(4, 4, 8, 16, generator=generator))


def test_shape_range_and_repeatability(host):
    chance = torch.get_rng_state()
    found = probability(host, "cat", "two dogs", noises=2)

    assert tuple(found.shape) == (2, 64, 128)
    assert found.dtype == torch.float32
    assert found.min() >= 0
    assert found.max() <= 1
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found, probability(host, "cat", "two dogs", noises=2))
    assert torch.equal(torch.get_rng_state(), chance)


def test_prompts_and_noises_at_once_give_what_each_gives_alone(host):
    both = probability(host, "cat", "two dogs", noises=3, rows=256)

    for index, phrase in enumerate(("cat", "two dogs")):
        torch.testing.assert_close(
            both[index : index + 1], probability(host, phrase, noises=3, rows=1), atol=1e-3, rtol=0
        )


def test_prompts_with_draws_of_their_own_give_what_each_gives_alone(plain_host):
    picture = a_picture(plain_host)
    noise = torch.randn(2, 4, 8, 16, generator=torch.Generator().manual_seed(8))
    draw = RandomInputs(torch.tensor([300, 450]), noise, 5)

    both = probability(plain_host, "cat", "dog", picture=picture, draw=draw, noises=2)

    for index, phrase in enumerate(("cat", "dog")):
        own = RandomInputs(draw.timesteps[index : index + 1], noise[index : index + 1], 5)
        alone = probability(plain_host, phrase, picture=picture, draw=own, noises=2)
        torch.testing.assert_close(both[index : index + 1], alone, atol=1e-4, rtol=0)


def test_an_absolute_level_does_not_go_by_the_pictures_mean(plain_host):
    picture = a_picture(plain_host)
    heat = torch.from_numpy(plain_heat(plain_host, picture, "cat", 400, seed=0, noises=1))
    level = 2 * float(heat.max())

    found = probability(plain_host, "cat", picture=picture, noises=1, level=level, blur=0.0)

    assert float(found.max()) == pytest.approx(0.5, abs=0.1)


def test_the_same_prompt_as_the_empty_one_finds_nothing(plain_host):
    picture = a_picture(plain_host)
    prompts = Prompts(("",), ("{}",), plain_host.encode_prompt)

    found = DifferenceMethod(DifferenceOptions(noises=1)).probability(
        plain_host, picture, prompts, a_draw(picture)
    )

    assert found.isfinite().all()
    assert found.max() < 1e-3


def test_the_blur_keeps_what_is_the_same_everywhere_and_the_sum_of_a_point():
    flat = torch.full((1, 5, 9), 0.25)
    point = torch.zeros(1, 21, 31)
    point[0, 10, 15] = 1

    torch.testing.assert_close(blur_maps(flat, 2.0), flat)
    assert blur_maps(point, 1.0).sum().item() == pytest.approx(1)
    assert blur_maps(point, 1.0)[0, 10, 15].item() == pytest.approx(1 / (2 * np.pi), rel=0.01)
    assert blur_maps(point, 0.0) is point


def test_it_runs_through_the_segmenter(host):
    method = DifferenceMethod(DifferenceOptions(noises=2))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    segmenter = Segmenter(host, method)
    segmenter.set_image(image)

    found = segmenter.segment(["cat", "dog"], SegmentOptions(resolution=64), negative_prompts=["sky"])

    assert found.probabilities().shape == (2, 64, 96)
    assert (found.record["method"], found.record["method_options"]["noises"]) == ("difference", 2)
    assert (found.record["timesteps"], found.record["template"]) == ((400,), "a picture of a {}.")
    released = segmenter.segment(["cat", "dog"], SegmentOptions(resolution=64, randomness="released"))
    assert released.maps.isfinite().all()


def test_a_small_model_sees_small_pictures(plain_host):
    full = dataclasses.replace(plain_host.info, unet=UNetConfig())

    resolutions = [DifferenceMethod.for_host(info).defaults.resolution for info in (plain_host.info, full)]

    assert resolutions == [128, 512]


def test_an_option_out_of_its_range_is_refused():
    with pytest.raises(OptionError, match="noises is 0, but it must be at least 1"):
        DifferenceOptions(noises=0)
