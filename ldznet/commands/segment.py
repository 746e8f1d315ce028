"""python -m ldznet segment: image files and prompts in, masks out.

Every image has a report NAME.json beside its other outputs. It is written twice: before the outputs, to say
which files are about to be ours, and after them, with what was found. So the same command again goes on where
it stopped, however it stopped, and no file that is not ours is ever overwritten.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import glob
import hashlib
import json
import os
import re
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldznet import __version__
from ldznet.commands.arguments import (
    EMBEDDED,
    MODELS,
    Subparsers,
    add_model,
    add_options,
    item_bar,
    load_model,
    read_options,
    require_model,
)
from ldznet.errors import ImageError, LdznetError, OptionError, PromptError
from ldznet.options import MaskOptions, SegmentOptions

if TYPE_CHECKING:
    from ldznet.segmenter import Segmentation, Segmenter

SUFFIXES = frozenset(
    f".{name}"
    for name in "png jpg jpeg jpe jfif webp bmp gif tif tiff avif jp2 ppm pgm pbm tga ico".split()  # noqa: SIM905
)
OUTPUTS = {
    "mask": "the mask of all prompts together, white is selected",
    "overlay": "the picture with the mask on it",
    "colors": "a labelled colour map of several prompts",
    "each": "a mask for every prompt",
    "heat": "a heat map for every prompt",
    "npz": "the probabilities, float32",
}


def add(commands: Subparsers) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "segment",
        help="find things in images by words",
        description="Find things in images by words and write masks. Without -p the last argument is the prompt.",
        epilog="examples:\n"
        '  python -m ldznet segment photo.jpg "bucket"\n'
        '  python -m ldznet segment photos/ -p dog -p "red car" -n grass --save mask,each,npz\n'
        '  cat photo.jpg | python -m ldznet segment - "bucket" --out - > mask.png',
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
    group.add_argument("--json", action="store_true", help="print the result as JSON, for programs")
    group.add_argument("--quiet", "-q", action="store_true", help="print errors only")
    group.add_argument("--brush-mask", type=Path, metavar="FILE", help="a mask to combine with, see --brush")
    add_model(parser)
    add_options(parser, MaskOptions, "from probabilities to the mask")
    add_options(parser, SegmentOptions, "from the image to probabilities")
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class Job:
    """One image and where its results go."""

    source: str  # a path, or "-"
    target: Path  # without suffix

    def output(self, kind: str) -> Path:
        """A file of the results."""
        return self.target.with_name(f"{self.target.name}{kind}")


@dataclass(frozen=True)
class Settings:
    """What is the same for all images of a command."""

    prompts: tuple[str, ...]
    negatives: tuple[str, ...]
    segment: SegmentOptions
    mask: MaskOptions
    save: tuple[str, ...]
    brush: Path | None
    model: Sequence[Any]  # tells the model and head from others


def run(parsed: argparse.Namespace) -> int:
    """Segment all images; 1 when some of them could not be."""
    inputs, prompts = list(parsed.inputs), tuple(parsed.prompt)
    if not prompts:
        if len(inputs) < 2:
            raise PromptError('There is no prompt. Give it last, as in: segment photo.jpg "bucket", or with -p.')
        prompts = (inputs.pop(),)
    require_model(parsed)
    settings = Settings(
        prompts,
        tuple(parsed.negative),
        read_options(parsed, SegmentOptions),
        read_options(parsed, MaskOptions),
        _save_list(parsed.save),
        parsed.brush_mask,
        _model_key(parsed),
    )
    jobs = _jobs(inputs, Path("." if parsed.out == "-" else parsed.out), parsed.recursive)
    if parsed.out == "-":
        return _to_standard_output(parsed, jobs, settings)
    rank, world = _share()
    return _run_all(parsed, jobs[rank::world], settings)


def _share() -> tuple[int, int]:
    """Which of how many processes this is, as `accelerate launch` and torchrun say it."""
    texts = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if all(text.isdecimal() for text in texts) and int(texts[0]) < int(texts[1]):
        return int(texts[0]), int(texts[1])
    raise OptionError(
        f"RANK is {texts[0]!r} and WORLD_SIZE {texts[1]!r} in the environment, which is no process of a launch. "
        "Unset both, or start with accelerate launch."
    )


def _run_all(parsed: argparse.Namespace, jobs: Sequence[Job], settings: Settings) -> int:
    done: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    keys: dict[Job, str] = {}
    todo = []
    for job in jobs:
        try:
            keys[job] = _key(job, settings)
            report = None if parsed.force else _report_if_done(job, keys[job])
        except LdznetError as error:
            failed.append({"image": job.source, "error": str(error)})
            _say(parsed, f"error: {error}", error=True)
            continue
        if report is None:
            todo.append(job)
        else:
            done.append(report)
    if done:
        _say(parsed, f"{len(done)} of {len(jobs)} images are done already")
    stopped = False
    if todo:
        if parsed.random_weights:
            _say(parsed, "note: the weights are random, so the masks mean nothing", error=True)
        segmenter = _segmenter(parsed)
        bar = item_bar(len(jobs), "image", start=len(jobs) - len(todo), quiet=parsed.quiet or len(jobs) == 1)
        try:
            for job in todo:
                try:
                    report = _segment(segmenter, job, settings, keys[job], overwrite=parsed.force)
                    done.append(report)
                    _say(parsed, _line(report), bar)
                except LdznetError as error:
                    failed.append({"image": job.source, "error": str(error)})
                    _say(parsed, f"error: {error}", bar, error=True)
                bar.update()
        except KeyboardInterrupt:
            stopped = True
        finally:
            bar.close()
    if parsed.json:
        print(json.dumps({"done": done, "failed": failed, "stopped": stopped}, indent=2))
    if failed:
        _say(parsed, f"{len(failed)} of {len(jobs)} images could not be done; see the errors above", error=True)
    if stopped:
        left = len(jobs) - len(done) - len(failed)
        _say(parsed, f"stopped with {left} of {len(jobs)} images left; the same command goes on there", error=True)
        return 130
    return 1 if failed else 0


def _to_standard_output(parsed: argparse.Namespace, jobs: Sequence[Job], settings: Settings) -> int:
    from PIL import Image

    from ldznet.image import load_image

    if len(jobs) != 1 or parsed.json:
        raise OptionError("--out - writes the mask of one image, so give one image and no --json.")
    segmenter = _segmenter(parsed)
    segmenter.set_image(load_image(_bytes(jobs[0])), settings.segment)
    found = segmenter.segment(settings.prompts, settings.segment, negative_prompts=settings.negatives)
    mask = found.mask(settings.mask, brush=_brush(settings, found.size))
    Image.fromarray((mask * 255 + 0.5).astype("uint8")).save(sys.stdout.buffer, "PNG")
    return 0


def _segmenter(parsed: argparse.Namespace) -> Segmenter:
    from ldznet.segmenter import Segmenter

    host, choice = load_model(parsed)
    if not parsed.random_weights:
        _say(parsed, f"method: {choice.method.name} ({choice.reason})", error=True)
    return Segmenter(host, choice.method)


# --- what is to be done --------------------------------------------------------------------------


def _save_list(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if unknown := [name for name in names if name not in OUTPUTS]:
        raise OptionError(f"--save does not know {', '.join(unknown)}: give some of {', '.join(OUTPUTS)}.")
    return names


def _jobs(inputs: Sequence[str], out: Path, recursive: bool) -> list[Job]:
    """All images with distinct places for their results, in a fixed order."""
    found: dict[str, Path] = {}  # source -> its name below the folder of results, with suffix
    for text in inputs:
        path = Path(text)
        if text == "-":
            found["-"] = Path("stdin")
        elif path.is_dir():
            inside = sorted(p for p in path.glob("**/*" if recursive else "*") if _is_image(p))
            if not inside:
                raise ImageError(f"The folder {path} holds no images. Check the path, or look deeper with -r.")
            found |= {str(p): p.relative_to(path) for p in inside}
        elif not path.exists() and any(mark in text for mark in "*?["):
            matches = sorted(p for p in glob.glob(text, recursive=recursive) if Path(p).is_file())
            if not matches:
                raise ImageError(f"No file matches {text}. Check the pattern.")
            found |= {match: Path(Path(match).name) for match in matches}
        else:
            found[text] = Path(path.name)
    found = {source: name.with_name(_short(name.name)) for source, name in found.items()}
    stems: dict[str, int] = {}
    for name in found.values():
        stem = str(name.with_suffix("")).casefold()
        stems[stem] = stems.get(stem, 0) + 1
    jobs: dict[str, Job] = {}
    for source, name in found.items():
        alone = stems[str(name.with_suffix("")).casefold()] == 1
        target = out / (name.with_suffix("") if alone else name)
        base, number = target, 2
        while str(target).casefold() in jobs:
            target, number = base.with_name(f"{base.name}-{number}"), number + 1
        jobs[str(target).casefold()] = Job(source, target)
    return list(jobs.values())


def _is_image(path: Path) -> bool:
    """A file in a folder that is to be segmented: by its suffix, and not a result of ours."""
    if path.suffix.lower() not in SUFFIXES or not (path.is_file() or path.is_symlink()):
        return False
    ours = re.fullmatch(r"(.+?)(\.\d+-[^.]*)?\.(mask|overlay|colors|heat)\.png", path.name)
    return ours is None or path.name not in _owned(path.with_name(ours[1]))


def _short(name: str) -> str:
    """A name that has room for the endings of the results: file systems take 255 bytes."""
    if len(os.fsencode(name)) <= 170:
        return name
    stem, suffix = os.path.splitext(name)
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    return f"{_cut(stem, 150)}-{digest}{suffix[:8]}"


def _cut(text: str, most: int) -> str:
    """At most so many bytes of a text, without half a character at the end."""
    return os.fsencode(text)[:most].decode(errors="ignore")


def _bytes(job: Job) -> bytes | str:
    return sys.stdin.buffer.read() if job.source == "-" else job.source


def _model_key(parsed: argparse.Namespace) -> list[Any]:
    """Tells one model from another without loading it."""
    key: list[Any] = [parsed.random_weights, parsed.dtype, parsed.prediction]
    key.append(parsed.method)
    heads = sorted(MODELS.glob("**/*.safetensors")) if parsed.head is None else [parsed.head]
    for path in (parsed.checkpoint or EMBEDDED, *heads):
        if parsed.random_weights:
            break
        if not path.exists():
            raise OptionError(f"{path} does not exist. Check the path.")
        key += [path.name, path.stat().st_size, path.stat().st_mtime_ns]
    return key


def _key(job: Job, settings: Settings) -> str:
    """A digest of the image and of all that the result depends on."""
    digest = hashlib.sha256()
    try:
        if job.source != "-":
            digest.update(Path(job.source).read_bytes())
        if settings.brush is not None:
            digest.update(settings.brush.read_bytes())
    except OSError as why:
        raise ImageError(f"{why.filename} cannot be read: {why.strerror}. Check the path.") from why
    plain = dataclasses.replace(settings, brush=None)
    digest.update(json.dumps([__version__, dataclasses.asdict(plain)], default=str).encode())
    return digest.hexdigest()


def _report_if_done(job: Job, key: str) -> dict[str, Any] | None:
    report = _own_report(job.target)
    if report.get("key") != key or not report.get("files") or job.source == "-":
        return None
    return report if all((job.target.parent / name).is_file() for name in report["files"]) else None


def _own_report(target: Path) -> dict[str, Any]:
    """The report of an image, if there is one of ours."""
    with contextlib.suppress(OSError, ValueError):
        report = json.loads(target.with_name(f"{target.name}.json").read_text())
        if isinstance(report, dict) and "ldznet" in report and isinstance(report.get("owned"), list):
            return report
    return {}


def _owned(target: Path) -> set[str]:
    """The names of the files that this command has written for an image, or was about to."""
    report = _own_report(target)
    return {*map(str, report["owned"]), f"{target.name}.json"} if report else set()


# --- one image -----------------------------------------------------------------------------------


def _segment(segmenter: Segmenter, job: Job, settings: Settings, key: str, *, overwrite: bool) -> dict[str, Any]:
    """Segment one image and write its results, the report last."""
    start = time.perf_counter()
    outputs, owned = _outputs(job, settings), _owned(job.target)
    files = [*outputs.values(), job.output(".json")]
    foreign = [path for path in files if path.name not in owned and path.exists()]
    if foreign and not overwrite:
        raise OptionError(
            f"{foreign[0]} is there already and was not made by this command; {job.source} was left out. Give "
            "another --out, or --force to overwrite."
        )
    segmenter.set_image(_bytes(job), settings.segment)
    found = segmenter.segment(settings.prompts, settings.segment, negative_prompts=settings.negatives)
    mine = sorted(owned | {path.name for path in files})
    _write_text(job.output(".json"), json.dumps({"ldznet": __version__, "owned": mine}))
    _write(segmenter, found, settings, outputs)
    report = {
        "image": job.source,
        "files": [path.name for path in outputs.values()],
        "owned": mine,
        "found": found.found(settings.mask),
        "notes": list(found.notes),
        "seconds": round(time.perf_counter() - start, 3),
        **found.record,
        "mask_options": dataclasses.asdict(settings.mask),
        "key": key,
    }
    _write_text(job.output(".json"), json.dumps(report, indent=2))
    return report


def _outputs(job: Job, settings: Settings) -> dict[str, Path]:
    """kind, or kind and number of the prompt -> file."""
    files = {}
    for kind in settings.save:
        if kind in ("mask", "overlay"):
            files[kind] = job.output(f".{kind}.png")
        elif kind == "colors" and len(settings.prompts) > 1:
            files[kind] = job.output(".colors.png")
        elif kind == "npz":
            files[kind] = job.output(".npz")
        elif kind in ("each", "heat"):
            ending = "mask" if kind == "each" else "heat"
            for number, prompt in enumerate(settings.prompts, start=1):
                slug = _cut(re.sub(r"[^\w]+", "-", prompt).lower(), 40).strip("-")
                files[f"{kind} {number}"] = job.output(f".{number}-{slug}.{ending}.png")
    return files


def _write(segmenter: Segmenter, found: Segmentation, settings: Settings, outputs: dict[str, Path]) -> None:
    import numpy as np

    from ldznet.image import save_png
    from ldznet.render import color_map, heat_map, overlay

    pixels = np.asarray(segmenter.image)
    mask = found.mask(settings.mask, brush=_brush(settings, found.size))
    for kind, path in outputs.items():
        name, _, number = kind.partition(" ")
        if name == "mask":
            save_png(mask, path)
        elif name == "overlay":
            save_png(overlay(pixels, mask), path)
        elif name == "colors":
            save_png(color_map(found, found.prompts, pixels, background=settings.mask.threshold).picture, path)
        elif name == "each":
            save_png(found.mask(settings.mask, only=int(number) - 1), path)
        elif name == "heat":
            save_png(heat_map(found.probability(int(number) - 1), pixels), path)
        else:
            _write_npz(path, found)


def _brush(settings: Settings, size: tuple[int, int]) -> Any:
    if settings.brush is None:
        return None
    import numpy as np

    from ldznet.image import load_image

    image = load_image(settings.brush).convert("L")
    if (image.height, image.width) != size:
        raise ImageError(
            f"The mask {settings.brush} is {image.width} x {image.height}, but the image is {size[1]} x {size[0]}."
            " Give a mask of the image's size."
        )
    return np.asarray(image, dtype=np.float32) / 255


def _write_npz(path: Path, found: Segmentation) -> None:
    """`prompts`, and `probability_1`, `probability_2` ... one after the other, as large as the image."""
    import numpy as np

    with _replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("prompts.npy", "w") as file:
            np.lib.format.write_array(file, np.array(found.prompts))
        for number, probability in enumerate(found, start=1):
            with archive.open(f"probability_{number}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, probability)


def _write_text(path: Path, text: str) -> None:
    with _replacing(path) as partial:
        partial.write_text(text + "\n")


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its name when all went well and vanishes otherwise."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as why:
        raise ImageError(f"{path} could not be written: {why.strerror or why}. Check the disk.") from why
    finally:
        partial.unlink(missing_ok=True)


# --- what is said --------------------------------------------------------------------------------


def _line(report: dict[str, Any]) -> str:
    things = []
    for found in report["found"]:
        if found["box"] is None:
            things.append(f"{found['prompt']}: nothing (highest {found['highest']:.2f})")
        else:
            share = 100 * found["share"]
            things.append(f"{found['prompt']}: {share:.1f} % at {found['box']}, p {found['probability']:.2f}")
    return f"{report['image']}  {'; '.join(things)}".replace("\n", "\\n")


def _say(parsed: argparse.Namespace, text: str, bar: Any = None, *, error: bool = False) -> None:
    """A line for a person: errors always, the rest unless a program reads or quiet was asked for."""
    if not error and (parsed.quiet or parsed.json):
        return
    stream = sys.stderr if error else sys.stdout
    write = getattr(bar, "write", None)
    if write is not None:
        write(text, file=stream)
    else:
        print(text, file=stream)
