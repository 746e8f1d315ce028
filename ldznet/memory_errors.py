"""A lack of memory, whichever library has noticed it: told from other errors, and said in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import torch

from ldznet.errors import OutOfMemoryError


@contextmanager
def explain_out_of_memory(what: str) -> Iterator[None]:
    """What does not fit into memory becomes an OutOfMemoryError, whichever library has noticed it."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"{what} does not fit into the memory that is free. Make the image smaller, or close other programs."
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Numpy, OpenCV and PyTorch each say it in their own way, PyTorch in several, by device."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    if isinstance(error, cv2.error):
        return bool(getattr(error, "code", 0) == cv2.Error.StsNoMem)
    text = str(error).lower()
    said = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(words in text for words in said)
