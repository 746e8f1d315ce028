"""Contact sheets of predictions: the image with the true mask, next to the image with the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldznet.drawing.overlay import heat_map, overlay
from ldznet.research.evaluation.runner import Prediction, intersection_over_union

_SIDE = 192  # pixels of each image on a sheet
TRUTH, PREDICTION = "truth", "prediction"  # written into each pair


def prediction_sheet(predictions: Sequence[Prediction], columns: int = 3) -> NDArray[np.uint8]:
    """Draw pairs of truth (left) and prediction (right), with the phrase and the IoU at 0.5 below each."""
    cells, texts = [], []
    for prediction in predictions:
        image = cv2.resize(prediction.sample.image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        target = prediction.target.astype(np.uint8)
        truth = overlay(image, cv2.resize(target, (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST) > 0)
        probability = cv2.resize(prediction.probability, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
        heat = heat_map(np.clip(probability, 0, 1), image)[:_SIDE, :_SIDE]
        cells.append(np.hstack([_labelled(truth, TRUTH), _labelled(heat, PREDICTION)]))
        texts.append(f"{prediction.sample.phrase} ({_score(prediction)})")
    return caption_cells(cells, texts, columns)


def caption_cells(images: Sequence[NDArray[np.uint8]], texts: Sequence[str], columns: int) -> NDArray[np.uint8]:
    """Return a sheet of images of one size in rows, each with its text below."""
    lines = [wrap(text, images[0].shape[1] // 7) for text in texts]
    band = 8 + 15 * max(map(len, lines))
    cells = [_with_text(image, text, band) for image, text in zip(images, lines, strict=True)]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    return np.vstack([np.hstack(cells[i : i + columns]) for i in range(0, len(cells), columns)])


def save_sheet(predictions: Sequence[Prediction], path: Path, columns: int = 3) -> None:
    """Write a contact sheet as JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(prediction_sheet(predictions, columns)).save(path, quality=88)


def _with_text(image: NDArray[np.uint8], lines: Sequence[str], band: int) -> NDArray[np.uint8]:
    """Return an image in a white frame, with lines of text in a band of so many pixels below."""
    framed = cv2.copyMakeBorder(image, 4, band, 4, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    for row, line in enumerate(lines):
        place = (8, image.shape[0] + 18 + 15 * row)
        cv2.putText(framed, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (30, 30, 30), 1, cv2.LINE_AA)
    return np.asarray(framed, np.uint8)


def _labelled(image: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    """Return the image with a text in its upper left corner, white on black so that any image shows it."""
    labelled = np.ascontiguousarray(image)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
    cv2.rectangle(labelled, (0, 0), (width + 6, height + 8), (0, 0, 0), -1)
    cv2.putText(labelled, text, (3, height + 3), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return labelled


def _score(prediction: Prediction) -> str:
    """Return the IoU at 0.5 as a text, or how much is selected of something absent."""
    if prediction.target.any():
        return f"IoU {100 * intersection_over_union(prediction):.0f}"
    return f"absent: {100 * float((prediction.probability > 0.5).mean()):.1f} % selected"
