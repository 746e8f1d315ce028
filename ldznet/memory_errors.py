"""Recognise a lack of memory, whichever library has raised it, and report it in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import torch

from ldznet.errors import OutOfMemoryError


@contextmanager
def explain_out_of_memory(what: str) -> Iterator[None]:
    """Turn the memory error of any library into an OutOfMemoryError; `what` begins its text."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"{what} does not fit into the memory that is free. Make the image smaller, or close other programs."
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of numpy, OpenCV or PyTorch says that memory is short."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    if isinstance(error, cv2.error):
        return bool(getattr(error, "code", 0) == cv2.Error.StsNoMem)
    # PyTorch has an error of its own only for CUDA; on other devices its text must do.
    text = str(error).lower()
    phrases = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(phrase in text for phrase in phrases)
