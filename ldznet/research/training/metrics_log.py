"""The metrics of a training: metrics.csv, and the same with images in TensorBoard where it is installed."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ldznet.files import write_text


class MetricsLog:
    """Collects rows; only the first process of a launch (`writes`) writes files."""

    def __init__(self, folder: Path, *, writes: bool) -> None:
        self.folder, self.writes = folder, writes
        self.rows = list[dict[str, float]]()
        self._board: Any = None

    def add(self, row: dict[str, float], step: int) -> None:
        """Add the metrics of a step; metrics.csv gets them at the next `write`."""
        self.rows.append(row)
        if self.writes and (board := self.board(step)) is not None:
            for name, value in row.items():
                if name != "step":
                    board.add_scalar(name, value, step)
            # Otherwise TensorBoard shows it only minutes later.
            board.flush()

    def add_image(self, path: Path, step: int) -> None:
        """Show an image in TensorBoard, if the validation has drawn one."""
        if path.exists() and (board := self.board(step)) is not None:
            with Image.open(path) as image:
                board.add_image("masks", np.asarray(image.convert("RGB")), step, dataformats="HWC")
            board.flush()

    def board(self, step: int) -> Any:
        """Return a writer that drops what an interrupted run wrote after this step; None without tensorboard."""
        if self._board is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                return None
            self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step)
        return self._board

    def write(self) -> None:
        """Write metrics.csv."""
        # Rows of validations have other columns than rows of losses.
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.folder / "metrics.csv", text.getvalue())
