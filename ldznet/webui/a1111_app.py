"""The door to AUTOMATIC1111's webui: with forge_app.py the only files that import the webui's `modules`.

The webui's modules are imported when a method is called, since "Reload UI" replaces some of them. File names and
lines in comments are those of AUTOMATIC1111 1.10.1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from ldznet.errors import HostError
from ldznet.hosts.a1111.host import A1111Host
from ldznet.hosts.a1111.neutral import WebuiModules
from ldznet.inference.passes import Progress
from ldznet.methods.learned_head import Carrier
from ldznet.webui.app import GeneratingApp, Result

# The fields of the webui's `state` that `show_progress` writes and puts back.
_STATE_FIELDS = ("job_count", "sampling_step", "sampling_steps", "textinfo")

# The images that Batch takes from a folder.
_BATCH_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")


class A1111App(GeneratingApp):
    """The door to AUTOMATIC1111's webui."""

    # --- work ----------------------------------------------------------------------------------------

    def run_exclusively(self, work: Callable[[], Result]) -> Result:
        """Call `work` under the webui's `queue_lock`, as one job of the webui, and return its result."""
        from modules import shared  # type: ignore[import-not-found]
        from modules.call_queue import queue_lock  # type: ignore[import-not-found]

        with queue_lock:
            shared.state.begin(job="ldznet")
            try:
                return work()
            finally:
                shared.state.end()

    def stop_requested(self) -> bool:
        """Return whether the user has pressed Interrupt or Skip.

        The webui forgets Skip when it has skipped, as done here; Interrupt ends the other files of a batch too.
        """
        from modules import shared

        state = shared.state
        requested = bool(state.interrupted or state.skipped or state.stopping_generation)
        if requested:
            state.skipped = False
        return requested

    def request_stop(self) -> None:
        """Do what the webui's Interrupt does."""
        from modules import shared

        shared.state.interrupt()

    @contextmanager
    def show_progress(self, text: str) -> Iterator[Progress]:
        """Show `text` in the webui's progress bar; put its state back on exit.

        A run counts its own jobs only where nobody has begun to count, so `job_count` must be as it was.
        """
        from modules import shared

        state = shared.state
        before = {name: getattr(state, name, None) for name in _STATE_FIELDS}

        def report(done: int, total: int) -> None:
            state.sampling_step, state.sampling_steps = done, total

        try:
            if (before["job_count"] or 0) < 1:  # nobody counts yet: this is the one job
                state.job_count = 1
            state.textinfo = text
            report(0, 1)
            yield report
        finally:
            for name, value in before.items():
                setattr(state, name, value)

    @contextmanager
    def progress_bar(self, task: str) -> Iterator[Callable[[], None]]:
        """Register `task` with the webui's progress bar. Call the yielded function to start it.

        The task is removed on exit.
        """
        if not task:
            yield lambda: None
            return
        from modules import progress

        progress.add_task_to_queue(task)
        try:
            yield lambda: progress.start_task(task)
        finally:
            progress.pending_tasks.pop(task, None)
            progress.finish_task(task)

    # --- the model -----------------------------------------------------------------------------------

    def load_model(self) -> Any:
        """Return the model that the webui's page names.

        A run with another checkpoint of its own leaves that one loaded until the next run begins, as this does.
        """
        from modules import sd_models, shared

        _ = shared.sd_model  # waits while the webui loads its first model; the next line would load a second one
        sd_models.reload_model_weights()
        return shared.sd_model

    def current_model(self) -> Any:
        """Return the model that the webui has loaded."""
        from modules import shared

        return shared.sd_model

    def device(self) -> torch.device:
        """Return the device on which the webui computes."""
        from modules import devices

        return torch.device(devices.device)

    def make_host(self, model: Any) -> Any:
        """Return the Host of a model that the webui has loaded."""
        return A1111Host(self.webui_modules(), model)

    def room_maker(self, model: Any) -> Callable[[], None] | None:
        """Return what empties the device with --medvram and --lowvram, else None."""
        if not getattr(model, "lowvram", False):
            return None
        from modules import lowvram

        send_everything_to_cpu: Callable[[], None] = lowvram.send_everything_to_cpu
        return send_everything_to_cpu

    def carrier(self, module: nn.Module, device: torch.device) -> Carrier | None:
        """Return None: the webui has no memory manager."""
        return None

    def webui_modules(self) -> WebuiModules:
        """Return the modules of the webui that a host works with.

        Raises:
            HostError: this is not AUTOMATIC1111's webui.
        """
        try:
            from modules import devices, lowvram, sd_hijack, sd_hijack_open_clip, sd_models, sd_unet, shared
        except ImportError as why:
            raise HostError(
                f"This does not run inside AUTOMATIC1111's webui ({why}), so there is no loaded model to borrow. "
                "Use a checkpoint file (DiffusersHost), or install the extension into the webui."
            ) from why
        networks = sys.modules.get("networks")  # the folder of the built-in Lora extension is on the webui's path
        networks = networks if hasattr(networks, "loaded_networks") else None
        tokenizer = sd_hijack_open_clip.tokenizer
        return WebuiModules(devices, lowvram, sd_hijack, sd_models, sd_unet, shared, tokenizer, networks)

    # --- options -------------------------------------------------------------------------------------

    def flag(self, name: str) -> Any:
        """Return a command-line flag of the webui or of preload.py."""
        from modules import shared

        return getattr(shared.cmd_opts, name, None)

    def option(self, name: str, default: Any) -> Any:
        """Return a value of the webui's settings page."""
        from modules import shared

        return getattr(shared.opts, name, default)

    def models_folder(self) -> Path:
        """Return the webui's folder `models`."""
        from modules import paths

        return Path(paths.models_path)

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
        """Add a line to the webui's settings page; call it in the callback `on_ui_settings`."""
        import gradio as gr  # type: ignore[import-not-found,import-untyped,unused-ignore]
        from modules import shared

        more: dict[str, Any] = {"infotext": infotext} if infotext else {}
        more |= {"restrict_api": True} if restrict_api else {}
        more |= {"component": gr.Radio, "component_args": {"choices": list(choices)}} if choices else {}
        line = shared.OptionInfo(default, label, section=section, **more)
        shared.opts.add_option(key, line.info(help) if help else line)

    # --- images and their parameters -----------------------------------------------------------------

    def fit_image(self, p: Any, image: Image.Image) -> Image.Image:
        """Return an image of the run `p` in the run's size (processing.py:1672)."""
        from modules import images

        flat = images.flatten(image, self.option("img2img_background_color", "#ffffff"))
        # The mode 3 resizes latents.
        fitted: Image.Image = images.resize_image(p.resize_mode % 3, flat, p.width, p.height)
        return fitted

    def save_image(self, image: Image.Image, path: Path, *, text: str | None, p: Any) -> None:
        """Save an image as the webui saves its results, under this very name."""
        from modules import images

        images.save_image(
            image,
            str(path.parent),
            "",
            extension=path.suffix.removeprefix("."),
            info=text,
            p=p,
            forced_filename=path.stem,
            save_to_dirs=False,
        )

    def parse_infotext(self, text: str) -> dict[str, Any]:
        """Return the parameters in the text below an image, as the webui reads them."""
        from modules import infotext_utils

        parameters: dict[str, Any] = infotext_utils.parse_generation_parameters(text)
        return parameters

    # --- the page ------------------------------------------------------------------------------------

    def batch_files(self, folder: str) -> list[Path]:
        """Return what Batch finds in a folder; nothing where the webui hides its folders (img2img.py:25)."""
        from modules import shared

        if shared.cmd_opts.hide_ui_dir_config or not folder.strip():
            return []
        return [Path(path) for path in shared.walk_files(folder, allowed_extensions=_BATCH_SUFFIXES)]

    def form_row(self) -> AbstractContextManager[Any]:
        """Return the webui's FormRow."""
        from modules.ui_components import FormRow  # type: ignore[import-not-found]

        row: AbstractContextManager[Any] = FormRow()
        return row

    def accordion(self, *, label: str, elem_id: str) -> AbstractContextManager[Any]:
        """Return the webui's InputAccordion, closed."""
        from modules.ui_components import InputAccordion

        accordion: AbstractContextManager[Any] = InputAccordion(False, label=label, elem_id=elem_id)
        return accordion

    def tool_button(self, text: str, *, elem_id: str, tooltip: str) -> Any:
        """Return the webui's ToolButton."""
        from modules.ui_components import ToolButton

        return ToolButton(text, elem_id=elem_id, tooltip=tooltip)

    def plot_modules(self) -> list[Any]:
        """Return the modules of the script xyz_grid.py: one for each tab that has loaded it."""
        from modules import scripts

        scripts_data = [data for data in scripts.scripts_data if os.path.basename(data.path) == "xyz_grid.py"]
        return [data.module for data in scripts_data if hasattr(data.module, "AxisOptionImg2Img")]
