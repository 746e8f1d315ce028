"""python -m ldznet serve: the webui's panel in the browser, without a webui."""

from __future__ import annotations

import argparse
import importlib.util
import os
import socket
import threading
from importlib.metadata import version
from pathlib import Path

from ldznet.cli.flags import add_checkpoint, device_and_dtype
from ldznet.cli.printing import Printer
from ldznet.errors import LdznetError, OptionError
from ldznet.methods.load import EMBEDDED, MODELS

# The page is written for one generation of gradio; the webui's own is older.
OLDEST_GRADIO = 6
HOW_TO_INSTALL = 'in the folder of ldznet, run pip install -e ".[serve]"'  # no package index has ldznet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments to its parser."""
    parser.description = (
        "Open the panel of the webui in the browser: type a prompt, look at the mask, move the threshold, "
        "download the mask. Ctrl-C stops the program."
    )
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="port (default: %(default)s)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on: 127.0.0.1 is for this computer only, 0.0.0.0 for everybody in the network "
        "(default: %(default)s)",
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser, only print the address")
    parser.add_argument("--quiet", "-q", action="store_true", help="print errors only")
    group = parser.add_argument_group("model")
    add_checkpoint(group)
    group.add_argument(
        "--heads", type=Path, metavar="FOLDER", help="another folder with heads, in addition to models/"
    )
    group.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the GPU, if there is one)")
    group.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="precision (default: float16 on a GPU, float32 on a CPU)",
    )
    group.add_argument("--download", action="store_true", help="allow the tokenizer to be downloaded (2 MB)")


def run(parsed: argparse.Namespace) -> int:
    """Load the model, open the page, and wait until a signal ends the process."""
    _check(parsed)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # gradio reads it when it is imported
    from ldznet.cli import standalone_page
    from ldznet.hosts.diffusers.host import DiffusersHost
    from ldznet.webui.session import Session

    printer = Printer(quiet=parsed.quiet, json=False)
    device, dtype = device_and_dtype(parsed)
    checkpoint = parsed.checkpoint or EMBEDDED
    host = DiffusersHost.load(checkpoint, device=device, dtype=dtype, download=parsed.download)
    app = standalone_page.StandaloneApp(host, MODELS, heads=parsed.heads, precision=parsed.dtype or "auto")
    session = Session(app, lambda host: host)
    page = standalone_page.make_page(session, host.info)
    address = standalone_page.open_page(page, session, parsed.host, parsed.port, browser=not parsed.no_browser)
    printer.result(f"{address}  (Ctrl-C ends it)")
    try:
        threading.Event().wait()  # the page is served by other threads; a signal ends this one
    finally:
        page.close(verbose=False)
    return 0


def _check(parsed: argparse.Namespace) -> None:
    """Refuse arguments that cannot work, before a model is loaded.

    Raises:
        OptionError, LdznetError: gradio, a folder or the embedded model is missing, or the port cannot be opened.
    """
    if importlib.util.find_spec("gradio") is None:
        raise LdznetError(f"gradio, which draws the page, is not installed. Install it: {HOW_TO_INSTALL}")
    installed = version("gradio")
    if int(installed.split(".")[0]) < OLDEST_GRADIO:
        raise LdznetError(
            f"gradio {installed} is installed, but the page needs gradio {OLDEST_GRADIO}. Install it in an "
            f"environment other than a webui's: {HOW_TO_INSTALL}"
        )
    if not 1 <= parsed.port <= 65535:
        raise OptionError(f"--port is {parsed.port}, but a port is a number from 1 to 65535: give 7860.")
    if parsed.heads and not parsed.heads.is_dir():
        raise OptionError(f"--heads is {parsed.heads}, which is not a folder. Give the folder that has the heads.")
    if not parsed.checkpoint and not EMBEDDED.exists():
        raise OptionError(
            "No checkpoint was given, and the embedded model is missing: it comes with the repository, not "
            "with an installed package. Give a Stable Diffusion model with --checkpoint."
        )
    _require_free(parsed.host, parsed.port)


def _require_free(host: str, port: int) -> None:
    """Open and close the port, so that a port in use is noticed before a model is loaded."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as why:
        raise LdznetError(
            f"The page cannot be opened at {host}, port {port}: {why.strerror or why}. If another program has the "
            "port, give another one with --port."
        ) from why
