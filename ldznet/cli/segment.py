"""python -m ldznet segment: image files and prompts in, masks out.

Everything that can be wrong with the command line is reported before a model is loaded: segment_settings.py.
Which images there are: inputs.py. The work itself: segment_run.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ldznet.cli.flags import add_model, add_options, process_of_launch
from ldznet.cli.inputs import Inputs, find_inputs
from ldznet.cli.outputs import OUTPUTS
from ldznet.cli.printing import stop_code
from ldznet.cli.reports import require_folder
from ldznet.cli.segment_run import SegmentRun, unreadable_text, write_to_standard_output
from ldznet.cli.segment_settings import read_settings, require_batch_names
from ldznet.errors import ImageError, LdznetError, PromptError
from ldznet.options import MaskOptions, SegmentOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments to its parser."""
    parser.description = (
        "Find things in images by prompts and write masks. Without -p the last argument is the prompt."
    )
    parser.epilog = (
        "examples:\n"
        '  python -m ldznet segment photo.jpg "bucket"\n'
        '  python -m ldznet segment photos/ -p dog -p "red car" -n grass --save mask,each,npz\n'
        '  cat photo.jpg | python -m ldznet segment - "bucket" --out - > mask.png'
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IMAGE",
        help="files, folders, patterns such as '*.jpg', or - for standard input",
    )
    parser.add_argument(
        "-p",
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help='what to find; repeatable, and "dog | red car" are two prompts',
    )
    parser.add_argument(
        "-n", "--negative", action="append", default=[], metavar="TEXT", help="what not to select; repeatable"
    )
    group = parser.add_argument_group("output")
    group.add_argument(
        "--out",
        "-o",
        default="masks",
        metavar="FOLDER",
        help="folder for the results (default: %(default)s); - writes the mask of one image to standard output",
    )
    kinds = "; ".join(f"{name}: {text}" for name, text in OUTPUTS.items())
    group.add_argument(
        "--save", default="mask,overlay,colors", metavar="LIST", help=f"{kinds} (default: %(default)s)"
    )
    group.add_argument("--recursive", "-r", action="store_true", help="search subfolders, too")
    group.add_argument(
        "--force", action="store_true", help="segment all images again and overwrite existing files"
    )
    group.add_argument(
        "--json",
        action="store_true",
        help="print the result as JSON, for programs; each process of a launch prints that of its own images",
    )
    group.add_argument("--quiet", "-q", action="store_true", help="print errors only")
    group.add_argument(
        "--brush-mask",
        type=Path,
        metavar="FILE",
        help="a mask to combine with, as --brush says. In a file with transparency the opaque part is selected, "
        "else what is white; a mask of another size is scaled to the image",
    )
    add_model(parser)
    add_options(parser, MaskOptions, "from probabilities to the mask")
    add_options(parser, SegmentOptions, "from the image to probabilities")


def run(parsed: argparse.Namespace) -> int:
    """Segment all images; return 1 if some of them could not be done."""
    rank, world = process_of_launch()
    arguments, prompts = list(parsed.inputs), list(parsed.prompt)
    if not prompts:
        if len(arguments) < 2:
            raise PromptError('There is no prompt. Give it last, as in: segment photo.jpg "bucket", or with -p.')
        prompts = [arguments.pop()]
    settings = read_settings(parsed, prompts)
    inputs = find_inputs(arguments, Path("." if parsed.out == "-" else parsed.out), parsed.recursive)
    if not inputs.jobs and inputs.unreadable:
        raise ImageError(unreadable_text(inputs.unreadable))
    if parsed.out == "-":
        # The processes of a launch share standard output, so only the first one writes.
        return 0 if rank else write_to_standard_output(parsed, inputs, settings)
    require_folder(Path(parsed.out))
    if "batch" in settings.save:
        require_batch_names(inputs.jobs)
    # Every process has the same list, so each takes every `world`-th image without talking to the others.
    share = Inputs(inputs.jobs[rank::world], inputs.closed_folders[rank::world])  # of several processes
    if rank == 0:  # so that what was left out is reported once
        share.unreadable, share.own_results = inputs.unreadable, inputs.own_results
    if world == 1:  # the usual case; what follows keeps a launcher from ending the other processes
        return SegmentRun(parsed, settings, share).run()
    from ldznet.cli.launch import leave

    try:
        code = SegmentRun(parsed, settings, share).run()
    except LdznetError:
        leave(failed=True)
        raise
    try:
        if code <= 1:
            leave(failed=code == 1)
    except KeyboardInterrupt as stop:
        return stop_code(stop)
    return code
