"""The modules of Forge that its host works with; webui/forge_app.py imports them, and nothing in this folder does.

file:line in comments of this folder are of Forge dfdcbab; "Neo" is Forge Neo 2.26.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ForgeModules:
    """Forge's memory manager and its patchers, and which model is loaded."""

    memory: Any  # backend.memory_management
    operations: Any  # backend.operations
    patcher: Callable[..., Any]  # backend.patcher.base.ModelPatcher
    loaded_model: Callable[[], Any]
    loaded_as: Callable[[], str]  # the parameters with which that model was loaded, as text
