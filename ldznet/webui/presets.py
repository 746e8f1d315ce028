"""Named settings of the panel, in a file beside the webui's own settings.

A preset has the value of every control but the switch, the words, and the numbers of objects. The file is JSON,
{"name": {"threshold": 0.3, ...}}, and is written whole or not at all. One that cannot be read is left as it is: it
is named, and nothing is saved until somebody has mended or moved it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldznet.errors import LdznetError, OptionError
from ldznet.webui.controls import BY_NAME, read_value

log = logging.getLogger(__name__)

FILE = "ldznet-presets.json"
NAMES = tuple(name for name in BY_NAME if name not in ("enabled", "prompt", "negative_prompt", "objects"))
LONGEST_NAME = 60
MOST = 200

_lock = threading.Lock()


def names() -> list[str]:
    """Those there are, by the alphabet; none where the file cannot be read, which is told when one is used."""
    try:
        return sorted(_read(), key=str.casefold)
    except LdznetError as why:
        log.warning("%s", why)
        return []


def load(name: str | None) -> dict[str, Any]:
    """The value of every control of NAMES; a control that the preset does not know has its default.

    Raises:
        LdznetError: there is no such preset, or something in it cannot be used.
    """
    said = _chosen(_read(), name)
    try:
        return {control: read_value(control, said.get(control)) for control in NAMES}
    except OptionError as why:
        raise OptionError(f"The preset {name!r} in {_path()} cannot be used. {why}") from why


def save(name: str, values: Mapping[str, Any]) -> str:
    """Keep these values, in place of those of that name -> the name as it is kept.

    Raises:
        LdznetError: the name cannot be used, there are too many, or the file cannot be written.
    """
    name = (name or "").strip()
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise OptionError(
            f"The preset's name is {name[:80]!r}, but it must be a text of 1 to {LONGEST_NAME} letters. Type one "
            "into Preset, then press Save."
        )
    with _lock:
        there = _read()
        if len(there) >= MOST and name not in there:
            raise LdznetError(f"There are {len(there)} presets, which is all there is room for. Delete one first.")
        _write({**there, name: {control: values[control] for control in NAMES}})
    return name


def delete(name: str | None) -> None:
    """Forget one.

    Raises:
        LdznetError: there is none of that name, or the file cannot be written.
    """
    with _lock:
        there = _read()
        _chosen(there, name)
        _write({other: said for other, said in there.items() if other != name})


def _chosen(there: Mapping[str, Any], name: str | None) -> Mapping[str, Any]:
    if name is not None and name in there:
        said: Mapping[str, Any] = there[name]
        return said
    if not there:
        raise OptionError("There are no presets yet. Type a name into Preset and press Save.")
    if not name:
        raise OptionError("No preset is chosen. Choose a preset first.")
    known = ", ".join(sorted(there, key=str.casefold))
    raise OptionError(f"There is no preset {name!r}. Those there are: {known}.")


# --- the file ----------------------------------------------------------------------------------------


def _path() -> Path:
    from modules import shared  # type: ignore[import-not-found]

    return Path(shared.cmd_opts.ui_settings_file).with_name(FILE)


def _read() -> dict[str, Any]:
    path = _path()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as why:
        raise _damaged(path, str(why)) from why
    if not isinstance(found, dict) or not all(isinstance(said, dict) for said in found.values()):
        raise _damaged(path, "it holds no presets")
    return found


def _damaged(path: Path, why: str) -> LdznetError:
    return LdznetError(
        f"The file of presets {path} cannot be read ({why}). It is left as it is: mend it, or move it away, and "
        "try again."
    )


def _write(presets: Mapping[str, Any]) -> None:
    """Whole or not at all, also if the power goes off meanwhile."""
    from modules import shared

    if getattr(shared.cmd_opts, "freeze_settings", False):
        raise LdznetError(
            "The settings of this webui are frozen (--freeze-settings), presets too. Start it without that flag "
            "to change them."
        )
    path = _path()
    real = path.resolve()  # a link stays one: what it names is replaced
    made = real.with_name(f"{FILE}-{os.getpid()}.partial")
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        with open(made, "w", encoding="utf-8") as file:
            json.dump(presets, file, indent=2, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        if real.exists():
            shutil.copymode(real, made)
        os.replace(made, real)
    except OSError as why:
        with contextlib.suppress(OSError):
            made.unlink(missing_ok=True)
        raise LdznetError(
            f"The presets could not be written to {path} ({why.strerror or why}). Those before are as they were. "
            "Check the disk and the permissions."
        ) from why
