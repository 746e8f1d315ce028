"""The panel on a page of its own, without a webui: what `python -m ldznet serve` opens.

The panel asks for a few things by the names that the webui's modules have. `stand_in` gives those few, with the
program's model as the one that is loaded; `make_page` puts the panel below a picture and a mask to combine with,
as in the webui's tab Inpaint upload. Nothing here generates pictures.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from ldznet.hosts.host import Host
from ldznet.webui.controls import TITLE

STYLE = Path(__file__).parents[2] / "style.css"
KEYS = Path(__file__).parents[2] / "javascript" / "ldznet.js"
_OWN_STYLE = """
footer, button[aria-label=Share] { display: none !important; }
#ldznet_refresh { align-self: center; }
"""
IMAGES = {
    "img_inpaint_base": "Picture",
    "img_inpaint_mask": "A mask to combine with; none is needed",
}
# The panel asks which tab is open: it is like Inpaint upload, and stays so.
_SCRIPT = "<script>function get_tab_index() { return 4; } function switch_to_img2img_tab() {}</script>"


class Lent:
    """A host of the command line's, with what a host of the webui has beside."""

    is_current = True

    def __init__(self, host: Host) -> None:
        self._host = host

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """Nothing else is at work in the model."""
        yield

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)


class _State:
    """Whether the work is to be stopped; there is no button for it."""

    interrupted = skipped = stopping_generation = False
    textinfo: str | None = None

    def begin(self, job: str) -> None: ...

    def end(self) -> None: ...


def stand_in(host: Host, models: Path, *, heads: Path | None = None, precision: str = "auto") -> None:
    """Let the panel find `host` as the loaded model, and the heads of the folders `models` and `heads`."""
    flags = SimpleNamespace(ldznet_heads=heads and str(heads), ldznet_device=None, ldznet_precision=precision)
    opts = SimpleNamespace(img2img_background_color="#ffffff")
    parts: dict[str, dict[str, Any]] = {
        "shared": {"sd_model": Lent(host), "state": _State(), "opts": opts, "cmd_opts": flags},
        "devices": {"device": host.device},
        "paths": {"models_path": str(models)},
        "call_queue": {"queue_lock": threading.Lock()},
        "sd_models": {"reload_model_weights": lambda: None},
        "ui_components": _containers(),
    }
    package = sys.modules["modules"] = ModuleType("modules")
    for name, content in parts.items():
        module = ModuleType(f"modules.{name}")
        vars(module).update(content)
        setattr(package, name, module)
        sys.modules[module.__name__] = module


def _containers() -> dict[str, Any]:
    """What the webui's own containers are on a plain page."""
    import gradio as gr

    @contextmanager
    def always_open(_value: bool, *, label: str, elem_id: str) -> Iterator[Any]:
        enabled = gr.Checkbox(True, label=label, elem_id=elem_id, visible=False)
        with gr.Column(elem_id="ldznet_panel"):
            yield enabled

    def button(text: str, *, elem_id: str, tooltip: str) -> Any:
        return gr.Button(f"{text} {tooltip}", elem_id=elem_id, size="md", scale=0, min_width=210)

    return {"InputAccordion": always_open, "FormRow": gr.Row, "ToolButton": button}


def make_page(name: str) -> Any:
    """Picture and mask, and the panel below; `name` is the model's, to be shown."""
    import gradio as gr

    from ldznet.webui import session
    from ldznet.webui.panel import callbacks, layout

    session.RUNS.make_host = lambda lent: lent  # it is a host already
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.HTML(f"<h2>{TITLE}</h2>{callbacks.lines([f'Masks from words, by {name}.'])}")
        with gr.Row():
            there = {elem_id: _image(elem_id, label) for elem_id, label in IMAGES.items()}
        layout.build("ldznet_{}".format, generates=False)
        for elem_id in layout.HOSTS:
            layout.remember(there.get(elem_id) or gr.State(), elem_id=elem_id)
    return page


def _image(elem_id: str, label: str) -> Any:
    import gradio as gr

    sources = ["upload", "clipboard"]
    return gr.Image(label=label, elem_id=elem_id, type="pil", image_mode="RGBA", sources=sources, height=360)


def open_page(page: Any, host: str, port: int, *, browser: bool) -> str:
    """Serve it, from threads of its own -> its address.

    Raises:
        OSError: the port is taken.
    """
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        inbrowser=browser,
        prevent_thread_lock=True,
        quiet=True,
        css=STYLE.read_text() + _OWN_STYLE if STYLE.exists() else _OWN_STYLE,
        head=f"{_SCRIPT}<script>{KEYS.read_text()}</script>" if KEYS.exists() else _SCRIPT,
        footer_links=[],
        ssr_mode=False,
        share=False,
    )
    return str(address)
