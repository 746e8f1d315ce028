"""A view: what one browser shows of a result, so that another mask of it can be drawn by a name alone.

Segment gives each result that it shows a view with a random name, which only that browser gets. The page then asks
for another mask of the view by its name (api/drawing.py), without the way through gradio.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ldznet.files import LruCache
from ldznet.masks.checks import SoftMask
from ldznet.masks.objects import Objects
from ldznet.options import MaskOptions

MOST_VIEWS = 64
MOST_BYTES = 2**28  # of painted masks and objects; the last view stays, whatever its size


@dataclass(frozen=True, eq=False)
class Drawn:
    """What is drawn of a result: its key in the session, the options of the mask, and the objects."""

    key: str
    options: MaskOptions
    objects: Objects

    def has_objects_of(self, key: str, options: MaskOptions) -> bool:
        """Return whether the mask of these options has the same objects: what follows them may be another."""
        return self.key == key and _before_objects(self.options) == _before_objects(options)


@dataclass
class View:
    """A result that is shown, and what is drawn of it."""

    redraw: Callable[[Mapping[str, Any]], dict[str, Any]]  # of the panel that shows it
    key: str  # of the result in the session
    given_mask: SoftMask | None
    note: str
    drawn: Drawn

    def draw(self, values: Mapping[str, Any], *, kind: str) -> dict[str, Any]:
        """Return what changes on the page, by the names of components, for the values of the mask's controls.

        `kind` is "all" if masks of other thresholds may change too, else "mask".
        """
        known = {"key": self.key, "given_mask": self.given_mask, "note": self.note, "drawn": self.drawn}
        answer = self.redraw({**values, **known, "kind": kind})
        self.drawn = answer.pop("drawn", self.drawn)
        return answer


def make_views() -> LruCache[str, View]:
    """Return a store for views by name."""
    return LruCache(MOST_VIEWS, MOST_BYTES, _bytes)


def new_name() -> str:
    """Return a name that nobody can guess."""
    return secrets.token_urlsafe(24)


def _before_objects(options: MaskOptions) -> MaskOptions:
    return dataclasses.replace(options, objects=(), grow=0, invert=False, brush="add", feather=0.0)


def _bytes(views: Collection[View]) -> int:
    masks = sum(view.given_mask.nbytes for view in views if view.given_mask is not None)
    return masks + sum(view.drawn.objects.numbers.nbytes for view in views)
