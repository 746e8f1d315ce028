"""What differs between the versions of gradio that the panel runs in; nothing else of the package asks for one.

3.41 is that of AUTOMATIC1111 and reForge, 4.40 that of Forge and Forge Neo, and 6 that of `serve`.
"""

from __future__ import annotations

from typing import Any


def script_argument() -> str:
    """Return the name of an event's argument that takes its JavaScript."""
    return "_js" if _is_3() else "js"


def out_of_view() -> Any:
    """Return the `visible` of a component that JavaScript sets: gradio 6 does not make what is not visible."""
    import gradio

    return "hidden" if int(gradio.__version__.split(".")[0]) >= 6 else False


def _is_3() -> bool:
    import gradio  # type: ignore[import-not-found,import-untyped,unused-ignore]

    version: str = gradio.__version__
    return version.startswith("3.")
