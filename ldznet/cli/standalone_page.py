"""The panel on a separate page, without a webui: what `python -m ldznet serve` opens.

`StandaloneApp` is the program that the panel's session runs in, with the model of the command line as the loaded
one. `StandalonePage` is the page around the panel: an image, and a mask to combine with.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from ldznet.errors import ImageError
from ldznet.hosts.host import Context, Host, HostInfo
from ldznet.images.reading import read_image
from ldznet.inference.passes import Progress
from ldznet.webui.app import App
from ldznet.webui.controls import TITLE
from ldznet.webui.page.page import PageImage
from ldznet.webui.session import Session

Result = TypeVar("Result")

ROOT = Path(__file__).parents[2]
STYLE = ROOT / "style.css"
SCRIPT = ROOT / "javascript" / "ldznet.js"
# Gradio's own footer and its button to share an image with a website have no place on a local page.
_OWN_STYLE = """
footer, button[aria-label=Share] { display: none !important; }
#ldznet_refresh { align-self: center; }
/* Room for the longest label of a slider on one line. */
#ldznet_panel .head input[type=number] { width: 3.6em; min-width: 0; padding: 0 0.2em; }
"""
IMAGE, MASK = "img_inpaint_base", "img_inpaint_mask"
LABELS = {IMAGE: "Picture", MASK: "A mask to combine with; none is needed"}


class BorrowedHost:
    """A host of the command line, with what a session asks of a webui's host in addition."""

    is_current = True  # the model is never replaced
    before_pass: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, host: Host) -> None:
        self._host = host

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """Do nothing: no run changes the model, so that nothing has to be put back."""
        yield

    def encode_image(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """Encode an image, unless the user has cancelled the work."""
        self.before_pass()
        return self._host.encode_image(image, noise)

    def predict_noise(self, noisy_latent: Tensor, timesteps: Tensor, context: Context) -> Tensor:
        """Run the UNet, unless the user has cancelled the work."""
        self.before_pass()
        return self._host.predict_noise(noisy_latent, timesteps, context)

    def __getattr__(self, name: str) -> Any:
        """Return what the host has of this name."""
        return getattr(self._host, name)


class StandaloneApp:
    """The program around the panel: an `App` (webui/app.py) with one model, a lock and a few flags."""

    def __init__(self, host: Host, models: Path, *, heads: Path | None = None, precision: str = "auto") -> None:
        """Lend the model; `models` has the subfolder `ldznet` with heads, `heads` is another folder with heads."""
        self._host = BorrowedHost(host)
        self._models = models
        self._flags = {"ldznet_heads": heads and str(heads), "ldznet_precision": precision}
        self._lock = threading.Lock()  # the page may be open in several browsers
        self._stop = threading.Event()

    def run_exclusively(self, work: Callable[[], Result]) -> Result:
        """Call `work` while nobody else who has the page open uses the model."""
        with self._lock:
            self._stop.clear()  # pressed before this work began
            return work()

    def stop_requested(self) -> bool:
        """Return whether Cancel was pressed since the work began."""
        return self._stop.is_set()

    def request_stop(self) -> None:
        """Ask the work that runs now to stop between two steps."""
        self._stop.set()

    @contextmanager
    def show_progress(self, text: str) -> Iterator[Progress]:
        """Show nothing: gradio shows that something runs."""
        yield lambda done, total: None

    @contextmanager
    def progress_bar(self, task: str) -> Iterator[Callable[[], None]]:
        """Show no bar."""
        yield lambda: None

    def load_model(self) -> Any:
        """Return the model, as a host."""
        return self._host

    def current_model(self) -> Any:
        """Return the model, as a host."""
        return self._host

    def device(self) -> torch.device:
        """Return the device of the model."""
        device: torch.device = self._host.device
        return device

    def room_maker(self, model: Any) -> None:
        """Return None: the model stays on its device."""

    def carrier(self, module: Any, device: torch.device) -> None:
        """Return None: the head stays on its device as well."""

    def flag(self, name: str) -> Any:
        """Return a flag of the command line."""
        return self._flags.get(name)

    def option(self, name: str, default: Any) -> Any:
        """Return the default: there is no settings page."""
        return default

    def models_folder(self) -> Path:
        """Return the folder with the model files."""
        return self._models

    def batch_files(self, folder: str) -> list[Path]:
        """Return nothing: the page has one image."""
        return []

    def form_row(self) -> AbstractContextManager[Any]:
        """Return a plain row."""
        import gradio as gr

        row: AbstractContextManager[Any] = gr.Row()
        return row

    @contextmanager
    def accordion(self, *, label: str, elem_id: str) -> Iterator[Any]:
        """Yield a switch that is always on, above a column that is always open."""
        import gradio as gr

        # CONTROLS has the switch, so that it must be there.
        enabled = gr.Checkbox(True, label=label, elem_id=elem_id, visible=False)
        with gr.Column(elem_id="ldznet_panel"):  # javascript/ldznet.js looks for this name
            yield enabled

    def tool_button(self, text: str, *, elem_id: str, tooltip: str) -> Any:
        """Return a button with its tooltip as text."""
        import gradio as gr

        return gr.Button(f"{text} {tooltip}", elem_id=elem_id, size="md", scale=0, min_width=210)


class StandalonePage:
    """The page around the panel: a `Page` (webui/page/page.py) with an image and a mask; it inpaints nothing."""

    generates = False
    input_names: Sequence[str] = (IMAGE, MASK)
    output_names: Sequence[str] = ()
    picture_names: Sequence[Sequence[str]] = ((IMAGE, MASK),)
    large_names: Sequence[str] = ()
    picture_events: Sequence[str] = (f"{IMAGE}.change", f"{MASK}.change")

    def __init__(self, components: Mapping[str, Any], result_column: AbstractContextManager[Any]) -> None:
        self.components = components
        self._result_column = result_column

    def when_complete(self, act: Callable[[], None]) -> None:
        """Call `act`: the components are made before the panel."""
        act()

    def result_column(self) -> AbstractContextManager[Any]:
        """Return the column beside the image."""
        return self._result_column

    def read_image(self, values: Mapping[str, Any], app: App) -> PageImage:
        """Return the image and the mask."""
        if values[IMAGE] is None:
            raise ImageError(f'There is no picture. Put one into "{LABELS[IMAGE]}".')
        mask = None if values[MASK] is None else _read_upload(values[MASK])
        return PageImage(_read_upload(values[IMAGE]), mask)

    def send(self, image: Image.Image, mask: Image.Image) -> dict[str, Any]:
        """Return nothing: there is no place to send a mask to."""
        return {}

    def script_after_send(self, names: Sequence[str]) -> None:
        """Return None: nothing is sent."""


def make_page(session: Session, info: HostInfo) -> Any:
    """Return the page as gradio's Blocks: image and mask, and the panel below; `info` is the model's."""
    import gradio as gr

    from ldznet.cli.examples import add_examples
    from ldznet.webui.controls import CONTROLS
    from ldznet.webui.panel import layout
    from ldznet.webui.panel.messages import lines

    # Files that were shown are deleted after a day.
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 86400)) as blocks:
        gr.HTML(f"<h2>{TITLE}</h2>{lines([f'Masks from words, by {info.name}.'])}")
        with gr.Row(elem_classes=["ldznet-columns"]):
            with gr.Column(min_width=340) as inputs:
                components = {IMAGE: _image(IMAGE, height=360), MASK: _image(MASK, height=180)}
            result_column = gr.Column(min_width=340)
        with inputs:
            controls = layout.build(session, StandalonePage(components, result_column), "ldznet_{}".format)
        if info.known_words:
            prompt = controls[[control.name for control in CONTROLS].index("prompt")]
            add_examples(components[IMAGE], prompt, info.known_words)
    return blocks


def _read_upload(upload: str | Image.Image) -> Image.Image:
    """Return an uploaded file as an image; errors do not name the place at which it is kept.

    Raises:
        ImageError: it is not an image, such as an empty file.
    """
    return read_image(Path(upload).read_bytes() if isinstance(upload, str) else upload)


def _image(elem_id: str, *, height: int) -> Any:
    import gradio as gr

    sources = ["upload", "clipboard"]  # no webcam
    image = gr.Image(
        label=LABELS[elem_id],
        elem_id=elem_id,
        type="filepath",
        image_mode=None,
        sources=sources,
        height=height,
    )
    decode = image.preprocess

    def path_of(payload: Any) -> Any:
        """Return the path of an uploaded file unopened: gradio has no words for what Pillow cannot read."""
        return payload.path if payload is not None and payload.path else decode(payload)

    # On the component, since gradio writes a file of types beside each class of components.
    image.preprocess = path_of
    return image


def open_page(blocks: Any, session: Session, host: str, port: int, *, browser: bool) -> str:
    """Serve the page from threads; return its address.

    Raises:
        OSError: the port is taken.
    """
    from ldznet.webui.api.drawing import register_drawing

    # An installed package has neither file; the page works without them.
    style = STYLE.read_text(encoding="utf-8") if STYLE.exists() else ""
    script = f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>" if SCRIPT.exists() else None
    served, address, _ = blocks.launch(
        server_name=host,
        server_port=port,
        inbrowser=browser,
        prevent_thread_lock=True,  # `serve` waits itself, and prints the address before
        quiet=True,
        css=style + _OWN_STYLE,
        head=script,
        footer_links=[],
        ssr_mode=False,  # needs Node.js
        share=False,  # never through somebody else's server
    )
    register_drawing(served, session)
    return str(address)
