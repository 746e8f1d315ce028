"""A run of img2img gets its mask, or is stopped: the work of the script's hooks.

    prepare(p)           in `setup`
    apply(p, args)       in `process`, where the model is the right one and `p.init` has not read the mask yet;
                         behind the values of CONTROLS `args` has what the page's objects were chosen in
    finish(p, processed) in `postprocess`

The webui holds its `queue_lock` meanwhile. What it has in `p`, and what stays there from file to file of a
batch, is told where it is dealt with; file names and lines are those of AUTOMATIC1111 1.10.1.
"""

from __future__ import annotations

import dataclasses
import glob
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ldznet.drawing.overlay import overlay
from ldznet.errors import ImageError, LdznetError, PromptError
from ldznet.webui import head_files, infotext, inpaint_preview, session, settings_page
from ldznet.webui.controls import CONTROLS, TITLE, Settings, is_enabled
from ldznet.webui.refusals import refusal
from ldznet.webui.request_cost import require_passes
from ldznet.webui.results import (
    answer,
    are_meant,
    brush_of,
    is_something,
    let_go,
    nothing,
    only_painted,
    to_picture,
)
from ldznet.webui.run import axes

log = logging.getLogger(__name__)


def apply(p: Any, args: Sequence[Any]) -> None:
    """The work of the hook `process`; whatever goes wrong stops the run and never repaints everything.

    An exception would not do: the webui reports what a hook raises, and goes on without the mask.
    """
    if hasattr(p, "_ad_inner"):
        return
    infotext.clear(p.extra_generation_params)  # of the file before in a batch, or the cell before in a plot
    changes, (args, pages_own) = axes.changes(p), (args[: len(CONTROLS)], args[len(CONTROLS) :])
    if not is_enabled(args) and not changes:
        return
    try:
        values, settings = settings_page.read(args, changes)
        if getattr(p, "is_api", False):
            require_passes(settings, session.RUNS.make_host(p.sd_model).info)
        values["head"] = head_files.chosen_name(values["head"])  # a checkpoint goes by what it is converted to
        p.extra_generation_params |= infotext.written(values, settings.segment.template)
        # The numbers of a plot are of each cell, as those of a batch are of each file.
        chosen_in = "" if "objects" in changes else next(iter(pages_own), None) or ""
        _mask_run(p, settings, chosen_in)
    except LdznetError as why:
        stop(p, why)
    except Exception as why:
        log.exception("The mask could not be made")
        text = f"The mask could not be made ({type(why).__name__}: {why}). The log has the whole story."
        stop(p, session.UnforeseenError(text))


def _mask_run(p: Any, settings: Settings, chosen_in: str) -> None:
    kept = _clean(p)
    image = _only_image(p)
    goes_on = kept.mask is not None and image is kept.result
    _set_inpainting(p, dataclasses.replace(settings, fill=None) if goes_on else settings)
    if kept.given is None and not getattr(p, "is_api", False):
        p.inpainting_mask_invert = 0  # the page hides "Mask mode" where there is no mask; the panel has "Invert"
    kept.fill = p.inpainting_fill
    if goes_on:
        p.image_mask = kept.mask
        infotext.clear(p.extra_generation_params)
        p.extra_generation_params |= kept.told
        return
    found = session.RUNS.find(p.sd_model, image, settings)
    numbers_fit = kept.batch or are_meant(found, chosen_in)
    options = settings.mask if numbers_fit else dataclasses.replace(settings.mask, objects=())
    given = None if kept.given is None else brush_of(kept.given, image.size)
    mask = found.segmentation.mask(options, given_mask=given)
    p.extra_generation_params[infotext.FOUND] = infotext.Answer(answer(found, options, mask))
    if options != settings.mask:
        del p.extra_generation_params[infotext.key("objects")]
        _warn(p, let_go(settings.mask.objects))
    made = to_picture(mask)
    seen = inpaint_preview.blurred(p, made)
    if is_something(found, options, given) and seen.any():  # else "Only masked" would repaint the whole picture
        p.image_mask = kept.mask = _made(made)
        _warn(p, only_painted(found, options, given))
        kept.told, kept.faint = infotext.ours(p.extra_generation_params), inpaint_preview.unpainted(p, seen)
        kept.append, kept.save = settings.append, settings_page.setting("save")
        if kept.append or kept.save:
            kept.pictures = {"mask": p.image_mask, "overlay": Image.fromarray(overlay(found.image, mask))}
        return
    why = nothing(found, options, given)
    if settings.on_nothing == "stop":
        raise PromptError(f"{why} Nothing was generated.")
    log.info("%s", why)
    p.comment(why)
    p.extra_generation_params["LD-ZNet mask"] = f"nothing found, {settings.on_nothing}"
    if settings.on_nothing == "empty mask":
        # "Only masked" would repaint the whole picture (processing.py:1649), inverting as well.
        p.inpaint_full_res = p.inpainting_mask_invert = 0
        p.image_mask = _made(Image.new("L", image.size))


def _warn(p: Any, text: str) -> None:
    """Below the results, and for programs, which are given no comments."""
    if text:
        log.warning("%s", text)
        p.comment(text)
        p.extra_generation_params[infotext.FOUND].setdefault("notes", []).append(text)


@dataclass
class _Kept:
    """What a run was given. In Batch one `p` serves all files, and keeps what was made of the file before."""

    given: Image.Image | None
    settings: dict[str, Any]
    batch: bool = False
    fill: int | None = None  # what the run before has left as the masked content
    # The script Loopback gives the result as the next picture: the mask stays, as a painted one would, and the
    # masked content is Loopback's own then.
    mask: Image.Image | None = None
    told: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what is written below the picture
    result: Image.Image | None = None
    faint: str = ""  # what to tell of the mask, if Soft inpainting, whose hook comes after ours, is off
    pictures: Mapping[str, Image.Image] = dataclasses.field(default_factory=dict)  # mask and overlay
    append: bool = False
    save: bool = False
    active: bool = False  # whether the panel has to do with this run
    first: Any = None  # what the page shows of a batch: the first file's results, to which others are added
    skipped: bool = False


_OURS = "ldznet_kept"
_INPAINTING = (
    "inpaint_full_res",
    "inpaint_full_res_padding",
    "inpainting_fill",
    "inpainting_mask_invert",
    "mask_blur_x",
    "mask_blur_y",
)
# `latent_mask` is that of the scripts that paint beyond the edges: the webui would repaint where it says.
_STALE = ("mask", "nmask", "latent_mask", "overlay_images", "mask_for_overlay", "paste_to")


def prepare(p: Any) -> None:
    """The work of the hook `setup`, which in Batch is called before there is any picture."""
    images = p.init_images
    if images and images[0] is None:
        setattr(p, _OURS, _first_sight(p, batch=True))


def _first_sight(p: Any, batch: bool = False) -> _Kept:
    return _Kept(p.image_mask, {name: getattr(p, name) for name in _INPAINTING}, batch)


def _clean(p: Any) -> _Kept:
    """Take away all that the file before has left in `p`; what the user has set is there again."""
    kept: _Kept | None = getattr(p, _OURS, None)
    if kept is None:
        kept = _first_sight(p)
        setattr(p, _OURS, kept)
    elif p.image_mask is not None and _OURS not in p.image_mask.info:
        kept.given = p.image_mask  # the webui has read this file's own mask from the folder of masks
    if kept.fill not in (None, p.inpainting_fill):
        kept.settings["inpainting_fill"] = p.inpainting_fill  # by the script Loopback, after its first loop
    for name, value in kept.settings.items():
        setattr(p, name, value)
    kept.active = True
    for name in ("image_mask", *_STALE):
        setattr(p, name, None)
    kept.pictures, kept.faint = {}, ""
    if (p.init_images or [None])[0] is not kept.result:
        kept.mask = None
    return kept


def _made(mask: Image.Image) -> Image.Image:
    """Mark it as ours: other extensions run our hooks with copies of `p`, so that no `p` knows them all."""
    mask.info[_OURS] = True
    return mask


def _only_image(p: Any) -> Image.Image:
    first, *others = p.init_images or [None]
    if any(other is not first and other.tobytes() != first.tobytes() for other in others):
        raise ImageError(
            f"This run has {1 + len(others)} different pictures, but the webui has room for one mask. Send them "
            "one at a time."
        )
    if first is None:
        raise ImageError("There is no picture. Put one into the open tab of img2img.")
    picture: Image.Image = first
    return picture


def _set_inpainting(p: Any, settings: Settings) -> None:
    if settings.fill is not None:
        p.inpainting_fill = settings.fill
    if settings.only_masked is not None:
        p.inpaint_full_res = settings.only_masked
    if settings.padding is not None:
        p.inpaint_full_res_padding = settings.padding
    if settings.mask_blur is not None:
        p.mask_blur_x = p.mask_blur_y = settings.mask_blur


def stop(p: Any, why: LdznetError) -> None:
    """End the run before anything is encoded or painted, with a text for the page or the API's answer.

    The first thing that the webui does after the hooks, and outside of what swallows exceptions, is `p.init`. In
    Batch only this file is left out: the others go on, and the text stands below the results. But not where a
    script counts on results, such as SD upscale, which puts tiles together.
    """
    p.image_mask = None
    # Only texts are kept: an error keeps, by its traceback, all that its frames hold.
    kind, text, is_api = type(why), str(why), getattr(p, "is_api", False)
    log.warning("%s: %s", TITLE, text)
    kept: _Kept | None = getattr(p, _OURS, None)
    if kept is not None and kept.batch and p.init_images[0] is not None and not _runs_a_script(p):
        kept.skipped = kept.active = True
        kept.settings |= {"n_iter": p.n_iter, "do_not_save_grid": p.do_not_save_grid}
        p.n_iter, p.do_not_save_grid = 0, True
        p.comment(text)
        return

    def init(*_: object, **__: object) -> None:
        raise refusal(kind(text)) if is_api else kind(text)

    p.init = init


def _runs_a_script(p: Any) -> bool:
    """Whether one is chosen in the drop-down of scripts, whose place is the first argument (scripts.py:743)."""
    return bool(next(iter(getattr(p, "script_args", None) or ()), 0))


def finish(p: Any, processed: Any) -> None:
    """The work of the hook `postprocess`: mask and overlay join the results; a batch keeps all comments."""
    kept: _Kept | None = getattr(p, _OURS, None)
    if kept is None or not kept.active or not (processed.images or kept.skipped):
        return  # ADetailer calls this between two pictures, with a copy of `p` and no results
    kept.result = next(iter(processed.images), None)
    if kept.faint and getattr(p, "mask_round", True):
        _warn(p, kept.faint)
        processed.comments += f"{kept.faint}\n"
    if kept.save:
        _save(p, processed, kept.pictures)
    for picture in kept.pictures.values() if kept.append and not _runs_a_script(p) else ():
        processed.images.append(picture)
        processed.infotexts.append(processed.infotexts[0] if processed.infotexts else "")
    kept.pictures = {}
    for name in ("n_iter", "do_not_save_grid"):
        if name in kept.settings:
            setattr(p, name, kept.settings.pop(name))
    if kept.batch:
        if kept.skipped:
            processed.infotexts.clear()  # there is no picture that it would belong to
        kept.first = kept.first or processed
        kept.first.comments = "".join(f"{text}\n" for text in p.comments)
        kept.skipped = False


def _save(p: Any, processed: Any, pictures: Mapping[str, Image.Image]) -> None:
    """Beside the first picture that the webui has saved, under its name: 00012-1.png, 00012-1-ldznet-mask.png.

    Where it has saved none, by its settings or those of an API's call, nothing is saved.
    """
    from modules import images, shared  # type: ignore[import-not-found]

    saved = (
        getattr(image, "already_saved_as", None) for image in processed.images[processed.index_of_first_image :]
    )
    beside = next((Path(name) for name in saved if name), None)
    if beside is None:
        return
    text = processed.infotexts[0] if processed.infotexts else None
    try:
        for name, picture in pictures.items():
            images.save_image(
                picture,
                str(beside.parent),
                "",
                extension="png" if name == "mask" else shared.opts.samples_format,  # a mask is exact
                info=text,
                p=p,
                forced_filename=f"{beside.stem}-ldznet-{name}",
                save_to_dirs=False,
            )
    except Exception as why:  # such as WebP's, of which no side may be longer than 16383 pixels
        reason = getattr(why, "strerror", None) or why
        told = (
            f"Mask and overlay could not be saved beside {beside.name} ({reason}). Check the disk, and the file "
            "format in the webui's settings."
        )
        log.warning("%s", told)
        processed.comments += f"{told}\n"
        if infotext.FOUND in p.extra_generation_params:
            p.extra_generation_params[infotext.FOUND]["not_saved"] = told  # programs are given no comments
        for half in beside.parent.glob(f"{glob.escape(beside.stem)}-ldznet-*.tmp"):  # images.py:716
            half.unlink(missing_ok=True)
