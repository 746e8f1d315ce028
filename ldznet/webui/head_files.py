"""The heads that the webui offers: their folders, their names in the panel, and their conversion.

A checkpoint in the released layout (.ckpt) in one of the folders is offered too. When it is chosen it is
converted, once, and the resulting file is used from then on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ldznet.errors import CheckpointError, HeadError, OptionError
from ldznet.heads.convert import convert
from ldznet.heads.head_file import HeadInfo, read_head_info
from ldznet.heads.weight_files import open_tensors
from ldznet.hosts.host import HostInfo
from ldznet.inference.passes import Progress
from ldznet.methods.choose import find_heads
from ldznet.webui.controls import AUTOMATIC, TITLE, PanelSettings
from ldznet.webui.settings_page import SettingsPage

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]  # of the extension, whose folder `models` has the embedded head
TO_CONVERT = " (to be converted)"
IN_8_BITS = " (in 8 bits)"
_LARGE = 2**27  # bytes of a head's file from which the panel offers it in 8 bits as well
_CONVERTED = "-ema.safetensors"
_RELEASED_WIDTH = 320  # channels of the first convolution
_converting = threading.Lock()  # several requests may choose the same checkpoint at once


class HeadFiles:
    """The heads in the folder of the extension, in that of the webui, and in the one that the settings name."""

    def __init__(self, settings_page: SettingsPage) -> None:
        self._settings_page = settings_page

    def folders(self) -> list[Path]:
        """Return the folders in which heads are looked for.

        Raises:
            OptionError: the settings name an impossible folder.
        """
        extra = self._settings_page.heads_folder()
        folders = [ROOT / "models", self._settings_page.app.models_folder() / "ldznet"]
        return [*folders, _checked_folder(extra)] if extra else folders

    def make_folder(self) -> None:
        """Make the webui's folder for heads, so that who looks for it finds it; a read-only disk has none."""
        with suppress(OSError):
            (self._settings_page.app.models_folder() / "ldznet").mkdir(parents=True, exist_ok=True)

    def names(self) -> list[str]:
        """Return the choices for the drop-down."""
        folders = self.folders()
        heads = find_heads(folders)
        names = [info.path.name for info in heads]
        names += [
            info.path.name + IN_8_BITS
            for info in heads
            if not info.in_8_bits and info.path.stat().st_size >= _LARGE
        ]
        names += [path.name + TO_CONVERT for path in unconverted(folders)]
        return [AUTOMATIC, *dict.fromkeys(names)]

    def candidates(self, settings: PanelSettings) -> list[HeadInfo]:
        """Return the heads to choose from: all of them, or the one that the settings name.

        Raises:
            HeadError: no head has this name. CheckpointError: the head of this name cannot be read.
        """
        folders = self.folders()
        heads = find_heads(folders)
        if settings.head == AUTOMATIC:
            return heads
        name = file_name(settings.head)
        matches = [info for info in heads if info.path.name == name]
        if not matches:
            # Names are compared with the files of the folders; a name itself is never opened as a path.
            for path in _files(folders):
                if path.name == name:
                    with paths_hidden(path):
                        read_head_info(path)  # raises an error that says what is wrong with the file
            raise _unknown_head(settings.head, [info.path.name for info in heads])
        return matches[:1]  # the folders are in order: that of the extension comes first

    def require_name(self, name: str) -> None:
        """Refuse a name that `names` does not have, nor had before a conversion.

        Raises:
            HeadError: no head has this name.
        """
        known = self.names()
        if not {name, file_name(name), name + TO_CONVERT} & set(known):
            raise _unknown_head(name, known[1:])

    def waiting_checkpoint(self, settings: PanelSettings) -> Path | None:
        """Return the checkpoint that is chosen and has not been converted yet."""
        name = settings.head.removesuffix(TO_CONVERT)
        if settings.method not in ("auto", "head") or not name.endswith(".ckpt"):
            return None
        return next((path for path in unconverted(self.folders()) if path.name == name), None)


def _checked_folder(text: str) -> Path:
    """Return the folder that the settings name; it need not exist yet.

    Raises:
        OptionError: the path cannot be opened.
    """
    excerpt = text if len(text) <= 200 else f"{text[:200]} ..."
    place = f'in Settings, section "{TITLE}", or to --ldznet-heads'
    try:
        folder = Path(text).expanduser()
        folder.is_dir()  # its answer does not matter, but its error does
    except RuntimeError as why:
        raise OptionError(
            f"The folder of heads is {excerpt!r}, but there is no such user. Give a path without ~, {place}."
        ) from why
    except OSError as why:
        raise OptionError(
            f"The folder of heads is {excerpt!r}, but it cannot be opened ({why.strerror}). Give another path, "
            f"{place}."
        ) from why
    return folder


def unconverted(folders: Sequence[Path]) -> list[Path]:
    """Return checkpoints that may be released ones; their content is checked when they are converted."""
    paths = [path for folder in folders for path in sorted(folder.glob("*.ckpt"))]
    return [path for path in paths if not _converted(path).exists()]


def _converted(path: Path) -> Path:
    """Return the path that `convert` writes to by default."""
    return path.with_name(path.stem + _CONVERTED)


@contextmanager
def paths_hidden(*paths: Path) -> Iterator[None]:
    """Name files in errors as the panel does: programs need not know where the files lie."""
    try:
        yield
    except CheckpointError as why:
        text = str(why)
        for path in paths:
            text = text.replace(str(path), path.name)
        raise type(why)(text) from why


def _unknown_head(name: str, known: Sequence[str]) -> HeadError:
    return HeadError(
        f"There is no head {name!r} (there: {', '.join(known) or 'none'}). Put the file into models/ldznet of the "
        f'webui, or choose "{AUTOMATIC}".'
    )


def _files(folders: Sequence[Path]) -> Iterator[Path]:
    """Yield all files in the folders and one level below."""
    for folder in folders:
        yield from (path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.is_file())


def chosen_name(head: str) -> str:
    """Return the name that a choice has in the panel; for a checkpoint, the name after its conversion."""
    name = head.removesuffix(TO_CONVERT)
    return f"{name.removesuffix('.ckpt')}{_CONVERTED}" if name.endswith(".ckpt") else name


def file_name(head: str) -> str:
    """Return the name of the file that a choice stands for; for a checkpoint, the name after its conversion."""
    return chosen_name(head).removesuffix(IN_8_BITS)


def wants_8_bits(head: str) -> bool:
    """Return whether a choice stands for the weights of a file in 8 bits."""
    return head.endswith(IN_8_BITS)


def convert_checkpoint(path: Path, host: HostInfo, progress: Progress) -> None:
    """Convert a checkpoint to a head file in its folder; a second caller waits for the first one's file.

    Raises:
        CheckpointError: the file is not a checkpoint, is damaged, or the disk is full; no new file is left.
    """
    with _converting:
        # Another request may have converted it while this one waited.
        if _converted(path).exists():
            return
        log.info("Converting %s; this is done once.", path)
        with paths_hidden(path, _converted(path)):
            report = convert(path, heads=_attention_heads(path, host), progress=progress)
        log.info("%s is converted to %s (%.0f MB).", path.name, report.path, report.bytes / 1e6)


def _attention_heads(path: Path, host: HostInfo) -> int | None:
    """Return the number of attention heads, which no file says: that of the model, for a head as wide as it.

    None leaves it to `convert`, which knows the released width.
    """
    with open_tensors(path) as tensors:
        width = next(
            (
                shape[0]
                for name, shape in tensors.shapes.items()
                # The averaged weights have the same names without dots.
                if name.replace(".", "").endswith("diffusion_modelinput_blocks00weight")
            ),
            _RELEASED_WIDTH,
        )
    return host.unet.heads if width == host.unet.model_channels != _RELEASED_WIDTH else None
