"""A run of img2img in the stand-in: the object `p`, and what the webui does with it around the hooks.

After processing.py and img2img.py of 1.10.1, without any painting: `run` goes through the same hooks in the same
order, swallows what they raise, and says with which mask the picture would have been painted.
"""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from PIL import Image

from host import infotext


@dataclass(repr=False)
class _Processing:
    """StableDiffusionProcessingImg2Img, as far as the hooks touch it; the defaults are the page's."""

    sd_model: object
    init_images: list
    image_mask: object = None
    inpaint_full_res: int = 0
    inpaint_full_res_padding: int = 32
    inpainting_fill: int = 1
    inpainting_mask_invert: int = 0
    batch_size: int = 1
    n_iter: int = 1
    is_api: bool = False
    do_not_save_grid: bool = False
    mask: object = None
    nmask: object = None
    overlay_images: object = None
    mask_for_overlay: object = None
    paste_to: object = None
    outpath_samples: str = ""
    width: int = 512
    height: int = 512
    mask_round: bool = True
    resize_mode: int = 0
    comments: dict = field(default_factory=dict)
    extra_generation_params: dict = field(default_factory=dict)

    def comment(self, text):
        self.comments[text] = 1

    def init(self, *_):
        """Note what the hooks have left on `p`, which the webui reads here (processing.py:1602)."""
        self.read = {
            name: getattr(self, name)
            for name in ("image_mask", "inpaint_full_res", "inpainting_fill", "mask_blur_x", "mask_blur_y")
        }
        self.read["invert"] = self.inpainting_mask_invert
        self.read["padding"] = self.inpaint_full_res_padding
        self.read["stale"] = [
            name for name in ("mask", "overlay_images", "paste_to") if getattr(self, name) is not None
        ]
        if self.image_mask is not None:
            if self.inpaint_full_res and not self.image_mask.convert("L").getbbox():
                self.inpaint_full_res = False
            self.mask_for_overlay = self.image_mask
            self.overlay_images, self.mask, self.nmask, self.paste_to = ["stale"], "stale", "stale", (0, 0, 1, 1)


@dataclass(repr=False)
class Processing(_Processing):
    """That of all webuis but Neo."""

    mask_blur_x: int = 4
    mask_blur_y: int = 4


@dataclass(repr=False)
class NeoProcessing(_Processing):
    """That of Forge Neo, where the blur of each direction can only be read."""

    mask_blur: int = 4

    @property
    def mask_blur_x(self):
        return self.mask_blur

    @property
    def mask_blur_y(self):
        return self.mask_blur


def save_image(image, path, basename, *, extension="png", forced_filename, **_more):
    """Save an image as images.save_image does: the file's name is noted on the image."""
    image.already_saved_as = str(Path(path) / f"{forced_filename}.{extension}")
    image.save(image.already_saved_as)


def flatten(image, bgcolor):
    """Replace transparency with a color, as images.flatten does."""
    return Image.alpha_composite(Image.new("RGBA", image.size, bgcolor), image.convert("RGBA")).convert("RGB")


def resize_image(resize_mode, image, width, height):
    """Resize an image as images.resize_image does in its mode 0."""
    assert resize_mode == 0
    return image.resize((width, height))


class Run:
    """The hooks of one extension, called as the webui calls them."""

    def __init__(self, hooks):
        self.hooks, self.reported = hooks, []

    def hook(self, call, *given):
        try:
            call(*given)
        except Exception as why:  # scripts.py:828: reported, and on it goes
            self.reported.append(why)

    def process_images(self, p, args):
        self.hook(self.hooks.apply, p, args)
        p.init()
        count = p.n_iter * p.batch_size
        images = [Image.new("RGB", (8, 8)) for _ in range(count)]
        processed = SimpleNamespace(images=list(images), infotexts=["text"] * max(count, 1))
        processed.comments = "".join(f"{text}\n" for text in p.comments)
        processed.info = processed.infotexts[0]
        processed.extra_generation_params, processed.index_of_first_image = p.extra_generation_params, 0
        for number, image in enumerate(images):
            if p.outpath_samples:  # where there is none, the webui's user wants nothing saved
                save_image(image, p.outpath_samples, "", forced_filename=f"{number:05}-1")
        self.hook(self.hooks.finish, p, processed)
        return processed

    def once(self, p, args):
        """Run once, as every tab but Batch does."""
        self.hook(self.hooks.prepare, p)
        return self.process_images(p, args)

    def stopped(self, p, args):
        """Run once on the page; return what is shown below the results, which are none."""
        assert not p.is_api
        processed = self.once(p, args)
        assert (processed.images, processed.infotexts, self.reported) == ([], [], [])
        assert p.image_mask is None
        assert not hasattr(p, "read")  # nothing was encoded
        return processed.comments.strip()

    def batch(self, p, images, args, masks=()):
        """Run the tab Batch: one `p` for all images (img2img.py:52)."""
        p.init_images = [None]
        self.hook(self.hooks.prepare, p)
        whole, reads = None, []
        for number, image in enumerate(images):
            p.init_images = [image] * p.batch_size
            if masks:
                p.image_mask = masks[number]
            processed = self.process_images(p, args)
            reads.append(p.read)
            if whole is None:
                whole = processed
            else:
                whole.images.extend(processed.images)
                whole.infotexts.extend(processed.infotexts)
        return whole, reads


def fill_in_webui(webui, monkeypatch, folder):
    """Add what the panel and the script use of the webui in addition to the model."""
    import sys
    from threading import Lock
    from types import ModuleType

    state = SimpleNamespace(interrupted=False, skipped=False, stopping_generation=False, textinfo=None, jobs=[])
    vars(state).update(job_count=-1, job_no=0, sampling_step=0, sampling_steps=0)
    state.begin = lambda job=None: state.jobs.append(job)
    state.end = lambda: state.jobs.append("end")
    webui.shared.state = state
    webui.shared.cmd_opts = SimpleNamespace(ldznet_heads=None, ldznet_device=None, ldznet_precision="auto")
    vars(webui.shared.opts).update(img2img_background_color="#ffffff", samples_format="png")
    paths, call_queue = ModuleType("modules.paths"), ModuleType("modules.call_queue")
    images, infotext_utils = ModuleType("modules.images"), ModuleType("modules.infotext_utils")
    infotext_utils.parse_generation_parameters = infotext.read
    paths.models_path, call_queue.queue_lock, images.save_image = str(folder), Lock(), save_image
    images.flatten, images.resize_image = flatten, resize_image
    for module in (paths, call_queue, images, infotext_utils):
        name = module.__name__.removeprefix("modules.")
        setattr(sys.modules["modules"], name, module)
        monkeypatch.setitem(sys.modules, f"modules.{name}", module)
