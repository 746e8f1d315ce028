"""Segment the images of one command: what is done, what failed, and what is printed about it.

An image that fails does not stop the others. Images that the same command has segmented before are not segmented
again.
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

from ldznet.cli.flags import load_chosen_model
from ldznet.cli.inputs import HEIC_SUFFIXES, Inputs, Job, Source, read_source
from ldznet.cli.outputs import ResultFiles, known_files
from ldznet.cli.printing import Printer, item_bar, print_json, stop_code
from ldznet.cli.reports import clean_folders, publish, replaced_prompts, report_if_done, require_own, staging
from ldznet.cli.segment_settings import Settings
from ldznet.errors import LdznetError, OptionError
from ldznet.methods.load import EMBEDDED

if TYPE_CHECKING:
    from ldznet.decision import Decision
    from ldznet.segmenter import Segmenter

_MOST_NAMED = 5  # files that a note names; the report for programs has all


@dataclass(frozen=True)
class Work:
    """An image that is still to be segmented."""

    job: Job
    source: Source
    key: str


class SegmentRun:
    """One command over its images: what is done, what failed, and what is printed about it."""

    def __init__(self, parsed: argparse.Namespace, settings: Settings, inputs: Inputs) -> None:
        self._parsed, self._settings, self._inputs = parsed, settings, inputs
        self._printer = Printer(quiet=parsed.quiet, json=parsed.json)
        self._done: list[dict[str, Any]] = []  # reports
        self._failed: list[dict[str, str]] = []
        self._total = len(inputs.jobs) + len(inputs.closed_folders)

    def run(self) -> int:
        """Segment all images and print the summary; return the exit code."""
        stopped = 0
        self._print_left_out()
        try:
            # Before the images: what a killed process has left would stay for good if the next one found all done.
            clean_folders({job.target.parent for job in self._inputs.jobs})
            work = self._find_work()
            if self._done:
                self._printer.result(f"{len(self._done)} of {self._total} images are done already")
            if work:
                self._segment_all(work)
        except KeyboardInterrupt as stop:
            stopped = stop_code(stop)
        self._print_end(stopped)
        return stopped or int(bool(self._failed))  # a signal's code says more than 1

    def _print_left_out(self) -> None:
        """Report the files and folders that were left out."""
        if count := self._inputs.own_results:
            self._printer.note(f"note: {count} files were left out, which are results of this command")
        if self._inputs.unreadable:
            self._printer.note(f"note: {unreadable_text(self._inputs.unreadable)}")
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
        """Load the model and segment the images; those that fail are reported and the others continue."""
        printer, parsed = self._printer, self._parsed
        if parsed.random_weights:
            printer.note("note: the weights are random, so the masks mean nothing")
        segmenter, reason = _load_segmenter(parsed, printer)
        checkpoint = None if parsed.random_weights else str(parsed.checkpoint or EMBEDDED)
        origin = {"reason": reason, "checkpoint": checkpoint}
        quiet = parsed.quiet or self._total == 1  # a bar over one image would only flash
        printer.bar = item_bar(self._total, "image", start=self._total - len(work), quiet=quiet)
        try:
            for item in work:
                try:
                    report = self._segment(segmenter, item, origin)
                    self._done.append(report)
                    printer.result(_result_line(report))
                except LdznetError as error:
                    self._fail(item.job.source, error)
                printer.bar.update()
        finally:
            # Closed first: an open bar would draw itself again below the summary.
            printer.bar.close()
            printer.bar = None

    def _segment(self, segmenter: Segmenter, work: Work, origin: dict[str, Any]) -> dict[str, Any]:
        """Segment one image, write its results, and return its report."""
        from ldznet.memory_errors import explain_out_of_memory

        start = time.perf_counter()
        job, source, settings = work.job, work.source, self._settings
        file = settings.given_mask
        with explain_out_of_memory(job.source):
            segmenter.set_image(job.source if source.data is None else source.data, settings.segment)
            result = segmenter.segment(settings.prompts, settings.segment, negative_prompts=settings.negatives)
            given_mask = file.read(result.size) if file else None
            files = ResultFiles(segmenter.image, result, settings.mask, settings.save, given_mask)
            text = _decision_text(files.decision)
            report = {
                "image": job.source,
                "image_file": _image_file(source),
                **files.record,
                # The order is that in which people read a report; `publish` puts version and files around it.
                "notes": [*result.notes, *([text] if text else [])],
                **result.record,
                "mask_options": dataclasses.asdict(files.decision.options),
                "threshold_reason": result.threshold_reason(settings.mask),
                "brush_mask": file.record if file else None,
                **origin,
                "key": work.key,
            }
            with staging(job.target.parent) as staged:
                names = files.write(staged, job)
                # Measured before publishing, since the number is part of what is published.
                report["seconds"] = round(time.perf_counter() - start, 3)
                before = replaced_prompts(job.target, names, settings.prompts)
                report = publish(job.target, staged, names, report, overwrite=self._parsed.force)
        if before:
            self._printer.note(f"note: {job.target}.*: the results for {', '.join(before)} were replaced")
        if text and (file or settings.mask.invert):  # else the line of the image says as much
            self._printer.note(f"note: {job.source}: {text}")
        return report

    def _fail(self, what: str, why: object) -> None:
        """Note and print that an image or a folder could not be done."""
        self._failed.append({"image": what, "error": str(why)})
        self._printer.error(f"error: {_with_name(what, str(why))}")

    def _print_end(self, stopped: int) -> None:
        """Print where the results are, what failed, and how to continue."""
        printer, done, failed = self._printer, self._done, self._failed
        if done:
            files = _count(sum(len(report["files"]) for report in done), "file")
            printer.result(f"results in {self._parsed.out}: {files} of {_count(len(done), 'image')}")
        if self._parsed.json:
            answer = {
                "done": done,
                "failed": failed,
                "left_out": self._inputs.unreadable,
                "stopped": bool(stopped),
            }
            print_json(answer)
        if failed:
            printer.error(f"{len(failed)} of {self._total} images could not be done; see the errors above")
        if stopped:
            rest = self._total - len(done) - len(failed)
            printer.error(f"stopped with {rest} of {self._total} images left; the same command continues there")


def write_to_standard_output(parsed: argparse.Namespace, inputs: Inputs, settings: Settings) -> int:
    """Segment one image and write its mask as PNG; return the exit code."""
    from PIL import Image

    from ldznet.decision import decide, to_levels
    from ldznet.memory_errors import explain_out_of_memory

    jobs, printer = inputs.jobs, Printer(quiet=parsed.quiet, json=False)
    for folder, why in inputs.closed_folders:
        printer.error(f"error: {_closed_folder_text(folder, why)}")
    if len(jobs) != 1 or parsed.json:
        raise OptionError("--out - writes the mask of one image, so give one image and no --json.")
    if sys.stdout is None:
        raise OptionError("--out - writes to standard output, which is closed. Send it to a file or a program.")
    source = jobs[0].source
    with explain_out_of_memory(source):
        data = read_source(source).data
        segmenter, _ = _load_segmenter(parsed, printer)
        segmenter.set_image(source if data is None else data, settings.segment)
        result = segmenter.segment(settings.prompts, settings.segment, negative_prompts=settings.negatives)
        file = settings.given_mask
        given_mask = file.read(result.size) if file else None
        decision = decide(result, settings.mask, given_mask)
        png = io.BytesIO()
        Image.fromarray(to_levels(decision.mask)).save(png, "PNG")
    if text := _decision_text(decision):
        printer.note(f"note: {text}")  # on standard error: the other stream carries the PNG
    sys.stdout.buffer.write(png.getbuffer())
    return int(bool(inputs.closed_folders))


def _load_segmenter(parsed: argparse.Namespace, printer: Printer) -> tuple[Segmenter, str]:
    """Load the model; return the segmenter, and why it uses its method."""
    from ldznet.segmenter import Segmenter

    host, choice = load_chosen_model(parsed)
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
    from ldznet.memory_errors import explain_out_of_memory

    with explain_out_of_memory(job.source):
        source = read_source(job.source)
    key = settings.key(source)
    report = None if overwrite else report_if_done(job.target, key)
    if report is not None:
        return report
    require_own(job.target, _names(job, settings), _image_file(source), overwrite=overwrite)
    return Work(job, source, key)


def _image_file(source: Source) -> dict[str, str]:
    return {"path": source.path, "sha256": source.sha256}


# --- texts ---------------------------------------------------------------------------------------


def _result_line(report: dict[str, Any]) -> str:
    """Return the line for people about one image."""
    parts = []
    for item in report["found"]:
        if item["box"] is None:
            parts.append(f"{item['prompt']}: nothing (highest {item['highest']:.2f})")
        else:
            share = 100 * item["share"]
            parts.append(f"{item['prompt']}: {share:.1f} % at {item['box']}, p {item['probability']:.2f}")
    if report["empty_reason"]:
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
        Reason.NOT_FOUND: "no prompt was found, so nothing is selected. A lower --threshold finds more",
        Reason.NOTHING_TO_SUBTRACT: "no prompt was found to subtract from --brush-mask, so nothing is selected. A "
        "lower --threshold finds more",
        Reason.OPTIONS: "a prompt was found, but the other options leave nothing selected. Check --smallest-area, "
        "--objects, --grow, --invert and --brush",
        Reason.FAINT: "the mask is too faint to select anything",
    }[decision.reason]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def unreadable_text(paths: Sequence[str]) -> str:
    """Return how many images of kinds that cannot be read were left out, and their names."""
    listing = ", ".join(paths[:_MOST_NAMED]) + (", ..." if len(paths) > _MOST_NAMED else "")
    kinds = ", ".join(sorted({Path(path).suffix[1:].upper() for path in paths}))
    verb = "was" if len(paths) == 1 else "were"
    is_heic = any(Path(path).suffix.lower() in HEIC_SUFFIXES for path in paths)
    help_text = "Save such files as PNG or JPEG" + (", or install pillow-heif for HEIC" if is_heic else "")
    return f"{_count(len(paths), 'file')} {verb} left out, because {kinds} cannot be read: {listing}. {help_text}."


def _closed_folder_text(folder: str, why: str) -> str:
    return f"The folder {folder} cannot be read: {why}. Check its permissions."


def _with_name(what: str, why: str) -> str:
    """Return why an image could not be done, after its name unless the text has it."""
    from ldznet.images.sources import quote_path

    name = "standard input" if what == "-" else what
    # Errors of images/ begin with the quoted path, others with an absolute one or with the folder.
    names = (quote_path(what), os.path.abspath(what), f"folder {what} ")
    if why.lower().startswith(f"{name} ".lower()) or any(each in why for each in names):
        return why
    return f"{name}: {why}"
