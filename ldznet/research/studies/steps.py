"""Draw the steps of the two methods without a head on one scene.

There is a row for a present object and one for an absent one. Maps are drawn on their own grid; all but the last
use the range from their smallest to their largest value, the last one the range from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldznet.drawing.overlay import heat_map, overlay
from ldznet.hosts.host import Host
from ldznet.images.tensors import from_tensor
from ldznet.methods.attention import AttentionMethod
from ldznet.methods.attention_maps import stretch
from ldznet.methods.method import EncodedImage, Prompts, RandomInputs
from ldznet.methods.noise_difference import DifferenceMethod
from ldznet.methods.noise_evidence import presence
from ldznet.research.datasets.network_input import stretch_to_square
from ldznet.research.datasets.sample import Sample
from ldznet.research.evaluation.contact_sheets import caption_cells
from ldznet.research.studies.ablation import Setup

_SIDE = 168  # pixels of a cell
_GAIN = 0.2  # evidence that is drawn yellow; a loss of as much is black

Cell = tuple[NDArray[np.uint8], str]


def draw_steps(host: Host, name: str, samples: Sequence[Sample], seed: int = 0) -> NDArray[np.uint8]:
    """Draw a sheet for a method, "attention" or "difference", with a row for each sample."""
    setup = Setup.of(name, host.info)
    method = setup.method()
    cells: list[Cell] = []
    columns = 0
    for sample in samples:
        pixels = torch.from_numpy(stretch_to_square(sample.image, sample.mask, setup.defaults.resolution)[0])[None]
        encoded = EncodedImage(pixels, host.encode_image(pixels))
        prompts = Prompts((sample.phrase,), (setup.defaults.template,), host.encode_prompt)
        noise = torch.randn(encoded.latent.shape, generator=torch.Generator().manual_seed(seed))
        draw = RandomInputs(torch.tensor(setup.defaults.timesteps[:1]), noise, seed)
        image = _enlarged(np.asarray(from_tensor(pixels)), cv2.INTER_AREA)
        cells.append((image, f'the image: "{sample.phrase}"' + ("" if sample.mask.any() else " is absent")))
        if isinstance(method, AttentionMethod):
            cells += _attention(method, host, encoded, prompts, draw)
        else:
            assert isinstance(method, DifferenceMethod)
            cells += _difference(method, host, encoded, prompts, draw)
        # Once more as a whole, so that the sheet ends with what a user gets.
        last = method.probability(host, encoded, prompts, draw)[0].clamp(0, 1).cpu().numpy()
        cells.append((_heat(last), "enlarged: the probability"))
        cells.append((overlay(image, _resized(last, cv2.INTER_LINEAR) >= 0.5), "the mask at 0.5"))
        columns = columns or len(cells)
    return caption_cells([cell for cell, _ in cells], [text for _, text in cells], columns)


def _attention(
    method: AttentionMethod, host: Host, encoded: EncodedImage, prompts: Prompts, draw: RandomInputs
) -> Iterator[Cell]:
    """Yield the steps of the attention method."""
    (stages,) = method.stages(host, encoded.latent, prompts, draw)
    own, options = list(stages.terms[0].own), method.options
    height, width = encoded.latent.shape[-2:]
    for factor, maps in stages.levels.items():
        grid = f"{math.ceil(height / factor)} x {math.ceil(width / factor)}"
        yield _scaled(maps[own].mean(dim=0)), f"attention to the phrase at {grid}"
    if options.rescale:
        rivals = len(stages.terms[0].rivals)
        yield _scaled(stages.shares[0]), f"its share, against {rivals} other token{'s' * (rivals != 1)}"
    often = "once" if options.iterations == 1 else f"{options.iterations} times"
    text = f"refined {often} by the attention of the pixels to each other"
    yield _scaled(stages.refined[0]), text if options.iterations else "not refined"
    gate = f"gate {stages.gates[0].item():.2f}" if options.gate else "no gate"
    yield _heat(stages.probability[0].cpu().numpy(), nearest=True), f"from 0 to 1, {gate}"
    if evidence := method.evidence(host, encoded.latent, prompts, stages.probability, draw.seed):
        probability = presence(evidence, options.presence_level, options.presence_width).item()
        text = f"where the prompt helps to predict the noise; presence: {probability:.2f}"
        yield _heat((evidence.gains[0] / (2 * _GAIN) + 0.5).numpy(), nearest=True), text


def _difference(
    method: DifferenceMethod, host: Host, encoded: EncodedImage, prompts: Prompts, draw: RandomInputs
) -> Iterator[Cell]:
    """Yield the steps of the difference method."""
    noisy_latent = host.add_noise(encoded.latent, draw.noise, draw.timesteps)
    contexts = prompts.encode([prompts.sentences[0], ""])
    with_prompt, empty = host.predict_noise(noisy_latent, draw.timesteps.expand(2), contexts).float().cpu()
    yield _colors(noisy_latent[0]), f"its latent with noise, timestep {int(draw.timesteps[0])}"
    yield _colors(with_prompt), "the noise predicted with the prompt"
    yield _colors(empty), "and with an empty prompt"
    yield _scaled((with_prompt - empty).norm(dim=0)), "how much they differ: the norm over 4 channels"
    heat = method.heat(host, encoded, prompts, draw)[0]
    yield _scaled(heat), f"mean over {method.options.noises} noises"


def _scaled(values: Tensor) -> NDArray[np.uint8]:
    """Draw a map over its own range of values."""
    values = values.detach().float().cpu()
    return _heat(stretch(values[None])[0].numpy(), nearest=True)


def _heat(values: NDArray[np.float32], *, nearest: bool = False) -> NDArray[np.uint8]:
    """Draw a map of values from 0 to 1."""
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return heat_map(np.clip(_resized(values, how), 0, 1))


def _colors(latent: Tensor) -> NDArray[np.uint8]:
    """Draw three of a latent's four channels as red, green and blue, from -3 to 3."""
    colors = ((latent[:3].detach().float().cpu() + 3) / 6 * 255).clamp(0, 255).byte()
    return _enlarged(colors.permute(1, 2, 0).numpy(), cv2.INTER_NEAREST)


def _enlarged(image: NDArray[np.uint8], how: int) -> NDArray[np.uint8]:
    """Return an image at the size of a cell."""
    return np.asarray(cv2.resize(image, (_SIDE, _SIDE), interpolation=how), np.uint8)


def _resized(values: NDArray[np.float32], how: int) -> NDArray[np.float32]:
    """Return a map at the size of a cell."""
    return np.asarray(cv2.resize(values, (_SIDE, _SIDE), interpolation=how), np.float32)
