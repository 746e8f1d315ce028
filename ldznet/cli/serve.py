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

# The page is made for one generation of gradio; the webui's own is older.
NEEDED = 'pip install "ldznet[serve]"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments to its parser."""
    parser.description = (
        "Open the panel of the webui in the browser: type words, see masks, move the threshold, "
        "download the mask. Ctrl-C ends it."
    )
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="port (default: %(default)s)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="who may come: 127.0.0.1, this computer; 0.0.0.0, everybody in the network (default: %(default)s)",
    )
    parser.add_argument("--no-browser", action="store_true", help="open no browser, print the address only")
    parser.add_argument("--quiet", "-q", action="store_true", help="print errors only")
    group = parser.add_argument_group("model")
    add_checkpoint(group)
    group.add_argument("--heads", type=Path, metavar="FOLDER", help="another folder with heads, beside models/")
    group.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the GPU where there is one)")
    group.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="precision (default: float16 on a GPU, float32 on a CPU)",
    )
    group.add_argument("--download", action="store_true", help="allow the tokenizer to be downloaded (2 MB)")


def run(parsed: argparse.Namespace) -> int:
    """Load the model, open the page, and wait until the user has had enough."""
    _check(parsed)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from ldznet.cli import standalone_page
    from ldznet.hosts.diffusers.host import DiffusersHost

    printer = Printer(quiet=parsed.quiet, json=False)
    device, dtype = device_and_dtype(parsed)
    checkpoint = parsed.checkpoint or EMBEDDED
    host = DiffusersHost.load(checkpoint, device=device, dtype=dtype, download=parsed.download)
    standalone_page.stand_in(host, MODELS, heads=parsed.heads, precision=parsed.dtype or "auto")
    page = standalone_page.make_page(host.info.name)
    address = standalone_page.open_page(page, parsed.host, parsed.port, browser=not parsed.no_browser)
    printer.result(f"{address}  (Ctrl-C ends it)")
    try:
        threading.Event().wait()
    finally:
        page.close(verbose=False)
    return 0


def _check(parsed: argparse.Namespace) -> None:
    """Refuse at once what cannot be served.

    Raises:
        OptionError, LdznetError: gradio, a folder or the embedded model is missing; no such port, or it is taken.
    """
    if importlib.util.find_spec("gradio") is None:
        raise LdznetError(f"gradio is not installed, which draws the page. Install it: {NEEDED}")
    if int((found := version("gradio")).split(".")[0]) < 6:
        raise LdznetError(
            f"gradio {found} is installed, but the page needs gradio 6. Install it in an environment other than a "
            f"webui's: {NEEDED}"
        )
    if not 1 <= parsed.port <= 65535:
        raise OptionError(f"--port is {parsed.port}, but a port is a number from 1 to 65535: give 7860.")
    if parsed.heads and not parsed.heads.is_dir():
        raise OptionError(f"--heads is {parsed.heads}, which is no folder. Give the folder where the heads are.")
    if not parsed.checkpoint and not EMBEDDED.exists():
        raise OptionError(
            "No checkpoint was given, and the embedded model is not here: it comes with the repository, not "
            "with an installed package. Give a Stable Diffusion model with --checkpoint."
        )
    _require_free(parsed.host, parsed.port)


def _require_free(host: str, port: int) -> None:
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as why:
        raise LdznetError(
            f"The page cannot be opened at {host}, port {port}: {why.strerror or why}. If another program has the "
            "port, give another one with --port."
        ) from why
