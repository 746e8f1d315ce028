"""python -m ldznet segment: image files and prompts in, masks out.

Which images, and where their results go: inputs.py. Whose files the results are: results.py. All that can be
wrong with the command itself is said before a model is loaded.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldznet import __version__
from ldznet.cli.flags import (
    EMBEDDED,
    MODELS,
    add_model,
    add_options,
    device_and_dtype,
    load_model,
    read_options,
    require_model,
)
from ldznet.cli.inputs import Found, Job, Source, file_digest, find_jobs, read_source
from ldznet.cli.launch import leave, process_of_launch
from ldznet.cli.outputs import OUTPUTS, Drawing, known_files
from ldznet.cli.printing import Printer, item_bar, print_json, stop_code
from ldznet.cli.reports import (
    publish,
    remove_killed,
    report_if_done,
    require_folder,
    require_own,
    staging,
)
from ldznet.errors import ImageError, LdznetError, OptionError, PromptError
from ldznet.options import MaskOptions, SegmentOptions

if TYPE_CHECKING:
    from ldznet.segmenter import Segmenter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments to its parser."""
    parser.description = (
        "Find things in images by words and write masks. Without -p the last argument is the prompt."
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
        "-p", "--prompt", action="append", default=[], metavar="TEXT", help="what to find; repeatable"
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
    group.add_argument("--recursive", "-r", action="store_true", help="look into folders of folders")
    group.add_argument("--force", action="store_true", help="do again what is done, overwrite what is there")
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
        help="a mask to combine with, as --brush says: add, subtract or intersect; white is selected, what is "
        "transparent is not",
    )
    add_model(parser)
    add_options(parser, MaskOptions, "from probabilities to the mask")
    add_options(parser, SegmentOptions, "from the image to probabilities")


@dataclass(frozen=True)
class Brush:
    """A mask that was given."""

    path: Path
    sha256: str
    values: Any  # (H, W) float32 in [0, 1]


@dataclass(frozen=True)
class Settings:
    """What is the same for all images of a command."""

    prompts: tuple[str, ...]
    negatives: tuple[str, ...]
    segment: SegmentOptions
    mask: MaskOptions
    save: tuple[str, ...]
    brush: Brush | None
    model: Sequence[Any]  # tells the model and head from others

    def key(self, source: Source) -> str:
        """A digest of an image and of all that its results depend on."""
        options = [dataclasses.asdict(self.segment), dataclasses.asdict(self.mask)]
        brush = self.brush.sha256 if self.brush else None
        content = [source.sha256, __version__, self.prompts, self.negatives, options, self.save, brush, self.model]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True)
class Work:
    """An image that is still to be segmented."""

    job: Job
    source: Source
    key: str


def run(parsed: argparse.Namespace) -> int:
    """Segment all images; 1 when some of them could not be."""
    rank, world = process_of_launch()
    inputs, prompts = list(parsed.inputs), list(parsed.prompt)
    if not prompts:
        if len(inputs) < 2:
            raise PromptError('There is no prompt. Give it last, as in: segment photo.jpg "bucket", or with -p.')
        prompts = [inputs.pop()]
    settings = _settings(parsed, prompts)
    found = find_jobs(inputs, Path("." if parsed.out == "-" else parsed.out), parsed.recursive)
    if parsed.out == "-":
        return 0 if rank else _to_standard_output(parsed, found, settings)
    require_folder(Path(parsed.out))
    own = Found(found.jobs[rank::world], found.unreadable[rank::world], 0 if rank else found.passed_over)
    try:
        code = _run_all(parsed, own, settings)
    except LdznetError:
        leave(failed=True)
        raise
    try:
        if code <= 1:
            leave(failed=code == 1)
    except KeyboardInterrupt as stop:
        return stop_code(stop)
    return code


def _run_all(parsed: argparse.Namespace, found: Found, settings: Settings) -> int:
    printer = Printer(quiet=parsed.quiet, json=parsed.json)
    done: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    total, stopped = len(found.jobs) + len(found.unreadable), 0

    def fail(what: str, why: object) -> None:
        failed.append({"image": what, "error": str(why)})
        printer.error(f"error: {_named(what, str(why))}")

    if found.passed_over:
        printer.note(f"note: {found.passed_over} files were left out, which are results of this command")
    for folder, why in found.unreadable:
        fail(folder, _closed(folder, why))
    try:
        todo = []
        for place_of_results in {job.target.parent for job in found.jobs}:
            remove_killed(place_of_results)
        for job in found.jobs:
            try:
                seen = _look(job, settings, overwrite=parsed.force)
                todo.append(seen) if isinstance(seen, Work) else done.append(seen)
            except LdznetError as error:
                fail(job.source, error)
        if done:
            printer.result(f"{len(done)} of {total} images are done already")
        if todo:
            if parsed.random_weights:
                printer.note("note: the weights are random, so the masks mean nothing")
            segmenter, chosen = _segmenter(parsed, printer)
            printer.bar = item_bar(total, "image", start=total - len(todo), quiet=parsed.quiet or total == 1)
            for work in todo:
                try:
                    report = _segment(segmenter, work, settings, {**chosen, **_origin(parsed)}, parsed.force)
                    done.append(report)
                    printer.result(_line(report))
                except LdznetError as error:
                    fail(work.job.source, error)
                printer.bar.update()
    except KeyboardInterrupt as stop:
        stopped = stop_code(stop)
    finally:
        if printer.bar is not None:
            printer.bar.close()
    printer.bar = None
    if parsed.json:
        print_json({"done": done, "failed": failed, "stopped": bool(stopped)})
    if failed:
        printer.error(f"{len(failed)} of {total} images could not be done; see the errors above")
    if stopped:
        left = total - len(done) - len(failed)
        printer.error(f"stopped with {left} of {total} images left; the same command goes on there")
    return stopped or int(bool(failed))


def _closed(folder: str, why: str) -> str:
    return f"The folder {folder} cannot be read: {why}. Check its permissions."


def _named(what: str, why: str) -> str:
    """Why an image could not be done, with its name in front unless the reason tells it."""
    from ldznet.images.reading import quote_path

    name = "standard input" if what == "-" else what
    told = (quote_path(what), os.path.abspath(what), f"folder {what} ")
    if why.lower().startswith(f"{name} ".lower()) or any(each in why for each in told):
        return why
    return f"{name}: {why}"


def _to_standard_output(parsed: argparse.Namespace, images: Found, settings: Settings) -> int:
    from PIL import Image

    from ldznet.memory_errors import explain_out_of_memory

    jobs, printer = images.jobs, Printer(quiet=parsed.quiet, json=False)
    for folder, why in images.unreadable:
        printer.error(f"error: {_closed(folder, why)}")
    if len(jobs) != 1 or parsed.json:
        raise OptionError("--out - writes the mask of one image, so give one image and no --json.")
    if sys.stdout is None:
        raise OptionError("--out - writes to standard output, which is closed. Send it to a file or a program.")
    source = jobs[0].source
    with explain_out_of_memory(source):
        data = read_source(source).data
        segmenter, _ = _segmenter(parsed, printer)
        segmenter.set_image(source if data is None else data, settings.segment)
        found = segmenter.segment(settings.prompts, settings.segment, negative_prompts=settings.negatives)
        mask = found.mask(settings.mask, given_mask=_brush_values(settings, found.size))
        png = io.BytesIO()
        Image.fromarray((mask * 255 + 0.5).astype("uint8")).save(png, "PNG")
    sys.stdout.buffer.write(png.getbuffer())
    return int(bool(images.unreadable))


def _segmenter(parsed: argparse.Namespace, printer: Printer) -> tuple[Segmenter, dict[str, Any]]:
    """Load the model; return the segmenter, and why it uses its method for the report."""
    from ldznet.segmenter import Segmenter

    host, choice = load_model(parsed)
    if not parsed.random_weights:
        printer.note(f"method: {choice.method.name} ({choice.reason})")
    return Segmenter(host, choice.method), {"reason": choice.reason}


# --- what is to be done --------------------------------------------------------------------------


def _settings(parsed: argparse.Namespace, prompts: Sequence[str]) -> Settings:
    """All that the command line says, checked.

    Raises:
        OptionError, PromptError: something in it is wrong.
    """
    from ldznet.inference.prompts import check_prompts

    require_model(parsed)
    texts, negatives = check_prompts(prompts, parsed.negative)
    mask = read_options(parsed, MaskOptions)
    if (parsed.brush_mask is None) != (mask.brush == "replace"):
        raise OptionError(
            "--brush-mask and --brush go together: the file of a mask, and whether to add to it, subtract from it "
            "or intersect with it."
        )
    return Settings(
        texts,
        negatives,
        read_options(parsed, SegmentOptions),
        mask,
        _save_list(parsed.save, len(texts)),
        _brush(parsed.brush_mask) if parsed.brush_mask else None,
        _model_key(parsed),
    )


def _save_list(text: str, prompts: int) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if unknown := [name for name in names if name not in OUTPUTS]:
        raise OptionError(f"--save does not know {', '.join(unknown)}: give some of {', '.join(OUTPUTS)}.")
    if not names:
        raise OptionError(f"--save names nothing to write: give some of {', '.join(OUTPUTS)}.")
    if prompts == 1 and set(names) == {"colors"}:
        raise OptionError(
            "--save colors draws a map of several prompts, but there is one. Give more, or save mask."
        )
    return names


def _brush(path: Path) -> Brush:
    import numpy as np

    from ldznet.images.reading import load_image

    try:
        image = load_image(path, background=(0, 0, 0)).convert("L")
        return Brush(path, file_digest(path), np.asarray(image, dtype=np.float32) / 255)
    except LdznetError as why:
        raise OptionError(f"--brush-mask cannot be used. {why}") from why


def _model_key(parsed: argparse.Namespace) -> list[Any]:
    """Tells one model, and the way it computes, from another without loading it."""
    from ldznet.hosts.diffusers.files import model_files

    device, dtype = device_and_dtype(parsed)
    key: list[Any] = [parsed.random_weights, device.type, str(dtype), parsed.head_storage]
    key += [parsed.prediction, parsed.method]
    if parsed.random_weights:
        return key
    try:
        heads = sorted(MODELS.glob("**/*.safetensors")) if parsed.head is None else [parsed.head]
        for path in (*model_files(parsed.checkpoint or EMBEDDED), *heads):
            found = path.stat()
            key += ["/".join(path.parts[-2:]), found.st_size, found.st_mtime_ns]
    except FileNotFoundError as why:
        raise OptionError(f"{why.filename} does not exist. Check the path.") from why
    except OSError as why:
        raise OptionError(f"{why.filename} cannot be read: {why.strerror}. Check its permissions.") from why
    return key


def _look(job: Job, settings: Settings, *, overwrite: bool) -> Work | dict[str, Any]:
    """What is to be done for an image, or the report of it when it is done.

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
    names = list(known_files(job.target.name, settings.save, settings.prompts).values())
    require_own(job.target, names, _image_file(source), overwrite=overwrite)
    return Work(job, source, key)


def _image_file(source: Source) -> dict[str, str]:
    return {"path": source.path, "sha256": source.sha256}


# --- one image -----------------------------------------------------------------------------------


def _segment(
    segmenter: Segmenter, work: Work, settings: Settings, told: dict[str, Any], overwrite: bool
) -> dict[str, Any]:
    """Segment one image and write its results, the report last; `told` stands in it too."""
    from ldznet.memory_errors import explain_out_of_memory

    start = time.perf_counter()
    job, source = work.job, work.source
    with explain_out_of_memory(job.source):
        segmenter.set_image(job.source if source.data is None else source.data, settings.segment)
        found = segmenter.segment(settings.prompts, settings.segment, negative_prompts=settings.negatives)
        drawing = Drawing(segmenter.image, found, settings.mask, settings.save)
        brush = _brush_values(settings, found.size)
        report = {
            "image": job.source,
            "image_file": _image_file(source),
            "found": found.prompt_statistics(settings.mask),
            **drawing.told,
            "notes": list(found.notes),
            **found.record,
            "mask_options": dataclasses.asdict(settings.mask),
            "brush_mask": _brush_record(settings.brush),
            **told,
            "key": work.key,
        }
        with staging(job.target.parent) as staged:
            names = drawing.write(staged, job.target.name, brush)
            report["seconds"] = round(time.perf_counter() - start, 3)
            return publish(job.target, staged, names, report, overwrite=overwrite)


def _origin(parsed: argparse.Namespace) -> dict[str, str | None]:
    """Where the model came from."""
    return {"checkpoint": None if parsed.random_weights else str(parsed.checkpoint or EMBEDDED)}


def _brush_values(settings: Settings, size: tuple[int, int]) -> Any:
    if settings.brush is None:
        return None
    height, width = settings.brush.values.shape
    if (height, width) != size:
        raise ImageError(
            f"The mask {settings.brush.path} is {width} x {height}, but the image is {size[1]} x {size[0]}."
            " Give a mask of the image's size."
        )
    return settings.brush.values


def _brush_record(brush: Brush | None) -> dict[str, str] | None:
    return {"path": str(brush.path), "sha256": brush.sha256} if brush else None


def _line(report: dict[str, Any]) -> str:
    things = []
    for found in report["found"]:
        if found["box"] is None:
            things.append(f"{found['prompt']}: nothing (highest {found['highest']:.2f})")
        else:
            share = 100 * found["share"]
            things.append(f"{found['prompt']}: {share:.1f} % at {found['box']}, p {found['probability']:.2f}")
    return f"{report['image']}  {'; '.join(things)}"
