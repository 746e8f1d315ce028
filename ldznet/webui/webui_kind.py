"""Find out which webui this process runs in. Nothing of the webui is imported for it.

a1111        AUTOMATIC1111's: the model has A1111's own modules
forge        Forge: the model is in `forge_objects`, its memory is managed by `backend`
neo          Forge Neo: as Forge, with another memory manager and without modules.sd_hijack
reforge      reForge, and Forge Classic: A1111's page and modules, the model in `forge_objects`
unsupported  any other webui with a package `modules`, such as SD.Next; `reason` says so
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

Kind = Literal["a1111", "forge", "neo", "reforge", "unsupported"]

WORKS_IN = "ldznet works in AUTOMATIC1111's webui, in Forge, in Forge Neo and in reForge"


@dataclass(frozen=True)
class WebuiKind:
    """A kind of webui, its name for people, and why ldznet cannot work there (empty if it can)."""

    kind: Kind
    name: str
    reason: str = ""


def webui_kind() -> WebuiKind:
    """Return the kind of webui that this process runs in; outside of any, AUTOMATIC1111's.

    A host says later that there is no webui at all.
    """
    if _exists("modules_forge"):
        if _exists("backend.memory_management"):
            return WebuiKind("forge", "Forge") if _exists("modules.sd_hijack") else WebuiKind("neo", "Forge Neo")
        return WebuiKind("reforge", "reForge or Forge Classic")
    if not _exists("modules.shared") or _exists("modules.lowvram"):
        return WebuiKind("a1111", "AUTOMATIC1111")
    name = "SD.Next" if _exists("modules.sdnq") or _exists("modules.modeldata") else "another one"
    return WebuiKind("unsupported", name, f"This webui is {name}, whose model ldznet cannot read. {WORKS_IN}.")


def _exists(name: str) -> bool:
    """Return whether a module of this name can be imported; at most the packages above it are imported."""
    if name in sys.modules:
        return True
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # no such package, or one that was not imported from a file
        return False
