"""The files of heads that the webui knows: where they lie, how the panel calls them, how they are converted.

A checkpoint in the released layout (.ckpt) that lies beside them is offered too; when it is chosen it is
converted, once, and the file that comes out is used from then on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ldznet.errors import CheckpointError, HeadError, OptionError
from ldznet.heads.convert import convert
from ldznet.heads.head_file import HeadInfo, read_head_info
from ldznet.heads.weight_files import open_tensors
from ldznet.hosts.host import HostInfo
from ldznet.inference.passes import Progress
from ldznet.methods.choose import find_heads
from ldznet.webui import settings_page
from ldznet.webui.controls import AUTOMATIC, TITLE, Settings

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
TO_CONVERT = " (to be converted)"
_CONVERTED = "-ema.safetensors"
_converting = threading.Lock()


def head_folders() -> list[Path]:
    """Where heads are looked for: in the extension, in the webui, and where the command line or the page says.

    Raises:
        OptionError: what is said is no folder that there can be.
    """
    from modules import paths  # type: ignore[import-not-found]

    given = settings_page.folder()
    folders = [ROOT / "models", Path(paths.models_path) / "ldznet"]
    return [*folders, _openable(given)] if given else folders


def _openable(given: str) -> Path:
    """One that is not there yet will do."""
    shown = given if len(given) <= 200 else f"{given[:200]} ..."
    where = f'in Settings, section "{TITLE}", or to --ldznet-heads'
    try:
        folder = Path(given).expanduser()
        folder.is_dir()  # false is no refusal, an error is one
    except RuntimeError as why:
        raise OptionError(
            f"The folder of heads is {shown!r}, but there is no such user. Give a path without ~, {where}."
        ) from why
    except OSError as why:
        raise OptionError(
            f"The folder of heads is {shown!r}, but it cannot be opened ({why.strerror}). Give another path, "
            f"{where}."
        ) from why
    return folder


def head_names() -> list[str]:
    """Choices for the drop-down."""
    folders = head_folders()
    names = [info.path.name for info in find_heads(folders)]
    names += [path.name + TO_CONVERT for path in unconverted(folders)]
    return [AUTOMATIC, *dict.fromkeys(names)]


def unconverted(folders: Sequence[Path]) -> list[Path]:
    """Checkpoints that may be released ones; what is in them is seen when they are converted."""
    found = [path for folder in folders for path in sorted(folder.glob("*.ckpt"))]
    return [path for path in found if not _converted(path).exists()]


def _converted(path: Path) -> Path:
    """The name that `convert` gives by default."""
    return path.with_name(path.stem + _CONVERTED)


def wanted_heads(settings: Settings) -> list[HeadInfo]:
    """The heads to choose from: all, or the one that is asked for.

    Raises:
        HeadError: there is none of this name. CheckpointError: there is, but it cannot be read.
    """
    folders = head_folders()
    heads = find_heads(folders)
    if settings.head == AUTOMATIC:
        return heads
    name = chosen_name(settings.head)
    chosen = [info for info in heads if info.path.name == name]
    if not chosen:
        for path in _files(folders):
            if path.name == name:
                with without_folders(path):
                    read_head_info(path)  # raises, and says what is wrong with it
        raise _unknown(settings.head, [info.path.name for info in heads])
    return chosen[:1]


def require_head(name: str) -> None:
    """Refuse a choice that `head_names` does not have, nor has had before a conversion.

    Raises:
        HeadError: there is none of this name.
    """
    known = head_names()
    if not {name, chosen_name(name), name + TO_CONVERT} & set(known):
        raise _unknown(name, known[1:])


@contextmanager
def without_folders(*paths: Path) -> Iterator[None]:
    """A refusal names files as the panel does: programs need not know where they lie."""
    try:
        yield
    except CheckpointError as why:
        text = str(why)
        for path in paths:
            text = text.replace(str(path), path.name)
        raise type(why)(text) from why


def _unknown(name: str, known: Sequence[str]) -> HeadError:
    return HeadError(
        f"There is no head {name!r} (there: {', '.join(known) or 'none'}). Put the file into models/ldznet of the "
        f'webui, or choose "{AUTOMATIC}".'
    )


def _files(folders: Sequence[Path]) -> Iterator[Path]:
    """All that there is to choose from: names are compared with these, and open no path themselves."""
    for folder in folders:
        yield from (path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.is_file())


def chosen_name(head: str) -> str:
    """The name of the file that a choice stands for: of a checkpoint, of what it was or will be converted to."""
    name = head.removesuffix(TO_CONVERT)
    return f"{name.removesuffix('.ckpt')}{_CONVERTED}" if name.endswith(".ckpt") else name


def waiting_checkpoint(settings: Settings) -> Path | None:
    """The checkpoint that is chosen and has not been converted yet."""
    if settings.method not in ("auto", "head") or not settings.head.removesuffix(TO_CONVERT).endswith(".ckpt"):
        return None
    name = settings.head.removesuffix(TO_CONVERT)
    return next((path for path in unconverted(head_folders()) if path.name == name), None)


def convert_checkpoint(path: Path, host: HostInfo, progress: Progress) -> None:
    """Make a head's file of a checkpoint, beside it; whoever comes meanwhile waits and finds it done.

    Raises:
        CheckpointError: it is none, is damaged, or there is no room; nothing is left behind.
    """
    with _converting:
        if _converted(path).exists():
            return
        log.info("Converting %s; this is done once.", path)
        with without_folders(path, _converted(path)):
            report = convert(path, heads=_attention_heads(path, host), progress=progress)
        log.info("%s is converted to %s (%.0f MB).", path.name, report.path, report.bytes / 1e6)


def _attention_heads(path: Path, host: HostInfo) -> int | None:
    """What no file tells of a head that is as wide as the loaded model: it has the model's own number of them.

    The released width, 320, is known to `convert`.
    """
    with open_tensors(path, scratch=path.parent) as tensors:
        width = next(
            (
                shape[0]
                for name, shape in tensors.shapes.items()
                if name.replace(".", "").endswith("diffusion_modelinput_blocks00weight")
            ),
            320,
        )
    return host.unet.heads if width == host.unet.model_channels != 320 else None
