"""python -m ldznet segment: image files and prompts in, masks out.

Everything that can be wrong with the command line is reported before a model is loaded. One image that cannot be
done does not stop the others. Which images there are: inputs.py. Whose files the results are: reports.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldznet.cli.flags import EMBEDDED, add_model, add_options, load_model
from ldznet.cli.inputs import Inputs, Job, Source, find_inputs, read_source
from ldznet.cli.launch import leave, process_of_launch
from ldznet.cli.outputs import OUTPUTS, ResultFiles, known_files
from ldznet.cli.printing import Printer, item_bar, print_json, stop_code
from ldznet.cli.reports import (
    clean_folders,
    publish,
    replaced_prompts,
    report_if_done,
    require_folder,
    require_own,
    staging,
)
from ldznet.cli.segment_settings import Settings, read_settings, require_batch_names
from ldznet.errors import ImageError, LdznetError, OptionError, PromptError
from ldznet.options import MaskOptions, SegmentOptions

if TYPE_CHECKING:
    from ldznet.decision import Decision
    from ldznet.segmenter import Segmenter

_MOST_NAMED = 5  # files that a note names; the report for programs has all


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
    listed = "; ".join(f"{name}: {text}" for name, text in OUTPUTS.items())
    group.add_argument(
        "--save", default="mask,overlay,colors", metavar="LIST", help=f"{listed} (default: %(default)s)"
    )
    group.add_argument("--recursive", "-r", action="store_true", help="search the folders in folders, too")
    group.add_argument("--force", action="store_true", help="repeat what is done and overwrite existing files")
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


@dataclass(frozen=True)
class Work:
    """An image that is still to be segmented."""

    job: Job
    source: Source
    key: str


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
        raise ImageError(_unreadable_text(inputs.unreadable))
    if parsed.out == "-":
        return 0 if rank else _write_to_standard_output(parsed, inputs, settings)
    require_folder(Path(parsed.out))
    if "batch" in settings.save:
        require_batch_names(inputs.jobs)
    own = Inputs(inputs.jobs[rank::world], inputs.closed_folders[rank::world])  # of several processes
    if rank == 0:
        own.unreadable, own.own_results = inputs.unreadable, inputs.own_results
    try:
        code = _Run(parsed, settings, own).run()
    except LdznetError:
        leave(failed=True)
        raise
    try:
        if code <= 1:
            leave(failed=code == 1)
    except KeyboardInterrupt as stop:
        return stop_code(stop)
    return code


class _Run:
    """One command over its images: what is done, what failed, and what is printed about it."""

    def __init__(self, parsed: argparse.Namespace, settings: Settings, inputs: Inputs) -> None:
        self._parsed, self._settings, self._inputs = parsed, settings, inputs
        self._printer = Printer(quiet=parsed.quiet, json=parsed.json)
        self._done: list[dict[str, Any]] = []  # reports
        self._failed: list[dict[str, str]] = []
        self._total = len(inputs.jobs) + len(inputs.closed_folders)

    def run(self) -> int:
        """Do all images and print the summary; return the exit code."""
        stopped = 0
        self._print_left_out()
        try:
            clean_folders({job.target.parent for job in self._inputs.jobs})
            work = self._find_work()
            if self._done:
                self._printer.result(f"{len(self._done)} of {self._total} images are done already")
            if work:
                self._segment_all(work)
        except KeyboardInterrupt as stop:
            stopped = stop_code(stop)
        self._print_end(stopped)
        return stopped or int(bool(self._failed))

    def _print_left_out(self) -> None:
        if count := self._inputs.own_results:
            self._printer.note(f"note: {count} files were left out, which are results of this command")
        if self._inputs.unreadable:
            self._printer.note(f"note: {_unreadable_text(self._inputs.unreadable)}")
        for folder, why in self._inputs.closed_folders:
            self._fail(folder, _closed_folder_text(folder, why))

    def _find_work(self) -> list[Work]:
        """Return the images that are still to be segmented."""
        work = []
        for job in self._inputs.jobs:
            try:
                item = _look(job, self._settings, overwrite=self._parsed.force)
                work.append(item) if isinstance(item, Work) else self._done.append(item)
            except LdznetError as error:
                self._fail(job.source, error)
        return work

    def _segment_all(self, work: Sequence[Work]) -> None:
        printer, parsed = self._printer, self._parsed
        if parsed.random_weights:
            printer.note("note: the weights are random, so the masks mean nothing")
        segmenter, reason = _load_segmenter(parsed, printer)
        origin = {"checkpoint": None if parsed.random_weights else str(parsed.checkpoint or EMBEDDED)}
        quiet = parsed.quiet or self._total == 1
        printer.bar = item_bar(self._total, "image", start=self._total - len(work), quiet=quiet)
        try:
            for item in work:
                try:
                    before = replaced_prompts(item.job.target, _names(item.job, self._settings), self._settings.prompts)
                    report = _segment(segmenter, item, self._settings, {"reason": reason, **origin}, parsed.force)
                    self._done.append(report)
                    printer.result(_result_line(report))
                    if before:
                        printer.note(f"note: {item.job.target}: the results for {', '.join(before)} were replaced")
                except LdznetError as error:
                    self._fail(item.job.source, error)
                printer.bar.update()
        finally:
            printer.bar.close()
            printer.bar = None

    def _fail(self, what: str, why: object) -> None:
        self._failed.append({"image": what, "error": str(why)})
        self._printer.error(f"error: {_with_name(what, str(why))}")

    def _print_end(self, stopped: int) -> None:
        printer, done, failed = self._printer, self._done, self._failed
        if done:
            files = sum(len(report["files"]) for report in done)
            images = "1 image" if len(done) == 1 else f"{len(done)} images"
            printer.result(f"{files} files of {images} are in {self._parsed.out}")
        if self._parsed.json:
            answer = {"done": done, "failed": failed, "left_out": self._inputs.unreadable, "stopped": bool(stopped)}
            print_json(answer)
        if failed:
            printer.error(f"{len(failed)} of {self._total} images could not be done; see the errors above")
        if stopped:
            rest = self._total - len(done) - len(failed)
            printer.error(f"stopped with {rest} of {self._total} images left; the same command continues there")


def _write_to_standard_output(parsed: argparse.Namespace, inputs: Inputs, settings: Settings) -> int:
    """Segment one image and write its mask as PNG; return the exit code."""
    from PIL import Image

    from ldznet.decision import decide, to_levels
    from ldznet.memory_errors import memory_explained

    jobs, printer = inputs.jobs, Printer(quiet=parsed.quiet, json=False)
    for folder, why in inputs.closed_folders:
        printer.error(f"error: {_closed_folder_text(folder, why)}")
    if len(jobs) != 1 or parsed.json:
        raise OptionError("--out - writes the mask of one image, so give one image and no --json.")
    if sys.stdout is None:
        raise OptionError("--out - writes to standard output, which is closed. Send it to a file or a program.")
    source = jobs[0].source
    with memory_explained(source):
        data = read_source(source).data
        segmenter, _ = _load_segmenter(parsed, printer)
        segmenter.set_image(source if data is None else data, settings.segment)
        result = segmenter.segment(settings.prompts, settings.segment, negative_prompts=settings.negatives)
        given_mask = settings.given_mask.read(result.size) if settings.given_mask else None
        decision = decide(result, settings.mask, given_mask)
        png = io.BytesIO()
        Image.fromarray(to_levels(decision.mask)).save(png, "PNG")
    if text := _decision_text(decision):
        printer.note(f"note: {text}")
    sys.stdout.buffer.write(png.getbuffer())
    return int(bool(inputs.closed_folders))


def _load_segmenter(parsed: argparse.Namespace, printer: Printer) -> tuple[Segmenter, str]:
    """Load the model; return the segmenter, and why it uses its method."""
    from ldznet.segmenter import Segmenter

    host, choice = load_model(parsed)
    if not parsed.random_weights:
        printer.note(f"method: {choice.method.name} ({choice.reason})")
    return Segmenter(host, choice.method), choice.reason


# --- one image -----------------------------------------------------------------------------------


def _names(job: Job, settings: Settings) -> list[str]:
    return list(known_files(job, settings.save, settings.prompts).values())


def _look(job: Job, settings: Settings, *, overwrite: bool) -> Work | dict[str, Any]:
    """Return what is to be done for an image, or its report if it is done.

    Raises:
        LdznetError: it cannot be done.
    """
    from ldznet.memory_errors import memory_explained

    with memory_explained(job.source):
        source = read_source(job.source)
    key = settings.key(source)
    report = None if overwrite else report_if_done(job.target, key)
    if report is not None:
        return report
    require_own(job.target, _names(job, settings), _image_file(source), overwrite=overwrite)
    return Work(job, source, key)


def _image_file(source: Source) -> dict[str, str]:
    return {"path": source.path, "sha256": source.sha256}


def _segment(
    segmenter: Segmenter, work: Work, settings: Settings, more: dict[str, Any], overwrite: bool
) -> dict[str, Any]:
    """Segment one image, write its results, and return its report, which has `more` in addition."""
    from ldznet.memory_errors import memory_explained

    start = time.perf_counter()
    job, source, given = work.job, work.source, settings.given_mask
    with memory_explained(job.source):
        segmenter.set_image(job.source if source.data is None else source.data, settings.segment)
        result = segmenter.segment(settings.prompts, settings.segment, negative_prompts=settings.negatives)
        given_mask = given.read(result.size) if given else None
        files = ResultFiles(segmenter.image, result, settings.mask, settings.save, given_mask)
        report = {
            "image": job.source,
            "image_file": _image_file(source),
            **files.record,
            "notes": [*result.notes, *filter(None, [_decision_text(files.decision)])],
            **result.record,
            "mask_options": dataclasses.asdict(settings.mask),
            "brush_mask": given.record if given else None,
            **more,
            "key": work.key,
        }
        with staging(job.target.parent) as staged:
            names = files.write(staged, job)
            report["seconds"] = round(time.perf_counter() - start, 3)
            return publish(job.target, staged, names, report, overwrite=overwrite)


# --- texts ---------------------------------------------------------------------------------------


def _result_line(report: dict[str, Any]) -> str:
    """Return the line for people about one image."""
    parts = []
    for found in report["found"]:
        if found["box"] is None:
            parts.append(f"{found['prompt']}: nothing (highest {found['highest']:.2f})")
        else:
            share = 100 * found["share"]
            parts.append(f"{found['prompt']}: {share:.1f} % at {found['box']}, p {found['probability']:.2f}")
    # Where nothing was found and nothing else was asked for, the line says so already.
    options = report["mask_options"]
    if report["empty_reason"] and (report["empty_reason"] != "not found" or options["invert"]):
        parts.append("nothing is selected")
    return f"{report['image']}  {'; '.join(parts)}"


def _decision_text(decision: Decision) -> str:
    """Return why the mask is empty, or is the given one alone; nothing for any other mask."""
    from ldznet.decision import Reason

    if decision.only_given:
        return "no prompt was found, so the mask is that of --brush-mask alone"
    if decision.reason is None:
        return ""
    return {
        Reason.NOT_FOUND: "no prompt was found, so nothing is selected, also with --invert; try a lower --threshold",
        Reason.NOTHING_TO_SUBTRACT: "no prompt was found to subtract from --brush-mask, so nothing is selected; try "
        "a lower --threshold",
        Reason.OPTIONS: "a prompt was found, but the other options leave nothing selected; check --smallest-area, "
        "--objects, --grow, --invert and --brush",
        Reason.FAINT: "the mask is too faint to select anything",
    }[decision.reason]


def _unreadable_text(paths: Sequence[str]) -> str:
    """Return how many images of kinds that cannot be read were left out, and their names."""
    named = ", ".join(paths[:_MOST_NAMED]) + (", ..." if len(paths) > _MOST_NAMED else "")
    kinds = ", ".join(sorted({Path(path).suffix[1:].upper() for path in paths}))
    count = "1 file was" if len(paths) == 1 else f"{len(paths)} files were"
    return f"{count} left out, because {kinds} cannot be read: {named}. Save them as PNG or JPEG."


def _closed_folder_text(folder: str, why: str) -> str:
    return f"The folder {folder} cannot be read: {why}. Check its permissions."


def _with_name(what: str, why: str) -> str:
    """Return why an image could not be done, after its name unless the text has it."""
    from ldznet.images.reading import quoted

    name = "standard input" if what == "-" else what
    names = (quoted(what), os.path.abspath(what), f"folder {what} ")
    if why.lower().startswith(f"{name} ".lower()) or any(each in why for each in names):
        return why
    return f"{name}: {why}"
