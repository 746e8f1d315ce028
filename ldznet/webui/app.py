"""The interface to the program around a session: `App`, and `GeneratingApp` for a webui.

`App` is what a session and the panel need of the program that they run in, and what the stand-alone page gives
too. `GeneratingApp` adds what runs of img2img, the API and the settings page need. a1111_app.py and forge_app.py
are the doors to webuis; current_webui.py chooses one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from PIL import Image
from torch import nn

from ldznet.inference.passes import Progress
from ldznet.methods.learned_head import Carrier

Result = TypeVar("Result")


class App(Protocol):
    """The program around a session and the panel: its model, its lock, its options and its page."""

    # --- work ----------------------------------------------------------------------------------------

    def run_exclusively(self, work: Callable[[], Result]) -> Result:
        """Call `work` while nothing else uses the model, and return its result."""

    def stop_requested(self) -> bool:
        """Return whether the user wants the work to stop; a request to skip is forgotten once it was returned."""

    def request_stop(self) -> None:
        """Ask the work that runs now to stop between two steps."""

    def show_progress(self, text: str) -> AbstractContextManager[Progress]:
        """Show `text` as the work in progress; yield a function to call with (done, total) steps."""

    def progress_bar(self, task: str) -> AbstractContextManager[Callable[[], None]]:
        """Register `task` with the progress bar of the page; yield a function that starts the bar.

        An empty `task` has no bar.
        """

    # --- the model -----------------------------------------------------------------------------------

    def load_model(self) -> Any:
        """Return the model that the page names, loaded. Call it inside of `run_exclusively`."""

    def current_model(self) -> Any:
        """Return the model that is loaded now, whichever the page names."""

    def device(self) -> torch.device:
        """Return the device on which the program computes."""

    def room_maker(self, model: Any) -> Callable[[], None] | None:
        """Return a function that takes all of the model off the device, or None where the model may stay there."""

    def carrier(self, module: nn.Module, device: torch.device) -> Carrier | None:
        """Return what brings a module to the device by the program's memory manager; None where it has none."""

    # --- options -------------------------------------------------------------------------------------

    def flag(self, name: str) -> Any:
        """Return a command-line flag, None where it was not given."""

    def option(self, name: str, default: Any) -> Any:
        """Return a value of the program's settings, `default` where it has none of that name."""

    def models_folder(self) -> Path:
        """Return the folder with the program's model files."""

    # --- the page ------------------------------------------------------------------------------------

    def batch_files(self, folder: str) -> list[Path]:
        """Return the images of a folder on the program's computer, in the order in which Batch takes them."""

    def form_row(self) -> AbstractContextManager[Any]:
        """Return a row for several controls."""

    def accordion(self, *, label: str, elem_id: str) -> AbstractContextManager[Any]:
        """Return a closed accordion; it yields the component that says whether it is open."""

    def tool_button(self, text: str, *, elem_id: str, tooltip: str) -> Any:
        """Return a small button."""


class GeneratingApp(App, Protocol):
    """A webui that also generates images: its settings page, saved results, parameters and plots."""

    def make_host(self, model: Any) -> Any:
        """Return the Host of a model that the webui has loaded.

        Raises:
            HostError: no model is loaded, or ldznet cannot work with it.
        """

    def declare_setting(
        self,
        key: str,
        label: str,
        default: Any,
        *,
        section: tuple[str, str],
        help: str = "",
        choices: Sequence[str] = (),
        infotext: str | None = None,
        restrict_api: bool = False,
    ) -> None:
        """Add a line to the settings page.

        `infotext` is the key in an image's parameters that overrides the setting. With `restrict_api` no request
        of the API may change it.
        """

    def fit_image(self, p: Any, image: Image.Image) -> Image.Image:
        """Return an image of the run `p` as the webui would paint it: without transparency, in the run's size."""

    def save_image(self, image: Image.Image, path: Path, *, text: str | None, p: Any) -> None:
        """Save a result of the run `p` under a path, its suffix included, with `text` as its parameters."""

    def parse_infotext(self, text: str) -> dict[str, Any]:
        """Return the parameters in the text below an image, by key."""

    def plot_modules(self) -> list[Any]:
        """Return the modules of the X/Y/Z plot, which have `axis_options`."""
