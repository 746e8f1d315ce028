"""Contact sheets of predictions: the image with what was expected, and with what was found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldznet.drawing.overlay import heat_map, overlay
from ldznet.research.evaluation.runner import Prediction, intersection_over_union
from ldznet.research.scenes.scenes import caption_cells

_SIDE = 192  # pixels of each picture on a sheet


def prediction_sheet(predictions: Sequence[Prediction], columns: int = 3) -> NDArray[np.uint8]:
    """Pairs of the image with its mask and of the heat map, below each pair its phrase and IoU at 0.5."""
    cells, texts = [], []
    for found in predictions:
        image = cv2.resize(found.sample.image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        target = cv2.resize(found.target.astype(np.uint8), (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST) > 0
        probability = cv2.resize(found.probability, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
        expected = overlay(image, target)
        heat = heat_map(np.clip(probability, 0, 1), image)[:_SIDE, :_SIDE]
        cells.append(np.hstack([expected, heat]))
        texts.append(f"{found.sample.phrase} ({_score(found)})")
    return caption_cells(cells, texts, columns)


def save_sheet(predictions: Sequence[Prediction], path: Path, columns: int = 3) -> None:
    """Write a contact sheet as JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(prediction_sheet(predictions, columns)).save(path, quality=88)


def _score(found: Prediction) -> str:
    if found.target.any():
        return f"IoU {100 * intersection_over_union(found):.0f}"
    return f"absent: {100 * float((found.probability > 0.5).mean()):.1f} % selected"
