"""Run prompts through a method, as many at once as fit into memory.

Knows one encoded image at a time; nothing of files, masks or refinement.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from ldznet.errors import HostError, OutOfMemoryError
from ldznet.hosts.host import Context, Host
from ldznet.inference.passes import BATCH, Passes, Progress, shift_progress
from ldznet.memory_errors import is_out_of_memory
from ldznet.methods.method import EncodedImage, Method, Prompts

log = logging.getLogger(__name__)

_MOST_CONTEXTS = 256  # encoded sentences that are kept, so that a second run of a prompt encodes nothing


class BatchRunner:
    """Runs prompts through a method; keeps the contexts of the last prompts."""

    def __init__(self, host: Host, method: Method) -> None:
        self.host = host
        self.method = method
        self._contexts: OrderedDict[str, Context] = OrderedDict()

    def size(self, encoded: EncodedImage) -> int:
        """Return how many prompts probably fit into memory at once."""
        if self.host.device.type != "cuda":
            return BATCH
        free, _ = torch.cuda.mem_get_info(self.host.device)
        height, width = encoded.latent.shape[-2:]
        # Activations of one prompt: about 40 maps of the first level's width are alive at once.
        bytes_each = 40 * self.host.info.unet.model_channels * height * width * self.host.dtype.itemsize
        # An estimate, so some of the free memory is left alone; `run` halves a batch that still does not fit.
        return int(max(1, min(64, 0.6 * free // bytes_each)))

    def run(
        self, texts: Sequence[str], encoded: EncodedImage, passes: Passes, batch: int, progress: Progress | None
    ) -> tuple[Tensor, list[bool]]:
        """Return maps (P, h, w) on the CPU, and whether each prompt was cut.

        A method that needs all prompts at once gets them so, whatever the batch.

        Raises:
            OutOfMemoryError: not even one prompt fits, or not all that must come at once. HostError: the
                weights overflow.
        """
        size = (encoded.pixels.shape[-2], encoded.pixels.shape[-1])
        maps, cut = torch.zeros(len(texts), *size), [False] * len(texts)
        # A method whose prompts are each other's rivals would give other maps in parts.
        batch, start = len(texts) if self.method.needs_all_prompts else min(batch, len(texts)), 0
        while start < len(texts):
            part = slice(start, min(start + batch, len(texts)))
            report = shift_progress(progress, passes.count * start, passes.count * len(texts))
            try:
                total, cut[part] = self._run_together(texts, part, encoded, passes, report)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                batch = self._smaller(batch, size, error)
                continue  # the same prompts again, fewer at once
            self._require_numbers(total)
            maps[part] = total / passes.count
            # Only now, so that prompts that did not fit run again in the smaller batch.
            start = part.stop
        # Means of values in [0, 1] may lie outside by rounding.
        return maps.clamp_(0, 1), cut

    def _run_together(
        self, texts: Sequence[str], part: slice, encoded: EncodedImage, passes: Passes, progress: Progress | None
    ) -> tuple[Tensor, list[bool]]:
        """Return the sum of all passes over some prompts, and whether each of these was cut."""
        count = part.stop - part.start
        total, cut = torch.zeros(count, *encoded.pixels.shape[-2:]), [False] * count
        for number in range(passes.count):
            templates = tuple(passes.template(number, index) for index in range(part.start, part.stop))
            prompts = Prompts(tuple(texts[part]), templates, self._context)
            inputs = passes.random_inputs(number, part, encoded.latent)
            # On the CPU, where a hundred maps do not compete with the model for memory.
            total += self.method.probability(self.host, encoded, prompts, inputs).cpu()
            cut = [was_cut or is_cut for was_cut, is_cut in zip(cut, prompts.context.cut, strict=True)]
            if progress is not None:
                progress((number + 1) * count, passes.count * count)
        return total, cut

    def _require_numbers(self, total: Tensor) -> None:
        # Checked on the sum of all passes, once per batch: NaN and infinity survive a sum.
        if not total.isfinite().all():
            raise HostError(
                f"The {self.method.name} method gave values that are not numbers (NaN) in "
                f"{str(self.host.dtype).removeprefix('torch.')}: these weights overflow it. Use bfloat16 or "
                "float32 (--dtype)."
            )

    def _smaller(self, batch: int, size: tuple[int, int], error: Exception) -> int:
        """Return half the batch, after freeing memory.

        Raises:
            OutOfMemoryError: the batch cannot be smaller.
        """
        self.host.clear_memory()
        if batch == 1:
            raise OutOfMemoryError(
                f"One prompt at {size[1]} x {size[0]} does not fit into memory. Give a lower resolution, or free "
                "memory on the device."
            ) from error
        if self.method.needs_all_prompts:
            raise OutOfMemoryError(
                f"{batch} prompts at {size[1]} x {size[0]} do not fit into memory, and the {self.method.name} "
                "method is set to look at all of them together. Give fewer prompts or a lower resolution, or set "
                "it to look at each alone."
            ) from error
        log.info("%d prompts at once do not fit into memory; trying %d.", batch, batch // 2)
        return batch // 2

    def _context(self, sentences: Sequence[str]) -> Context:
        """Return the contexts of some sentences, and keep those of the last ones."""
        if new := [text for text in dict.fromkeys(sentences) if text not in self._contexts]:
            encoded = self.host.encode_prompt(new)
            for index, text in enumerate(new):
                self._contexts[text] = encoded[index : index + 1]
        context = Context.join([self._contexts[text] for text in sentences])
        # The most recently used come last; the first are dropped.
        for text in sentences:
            self._contexts.move_to_end(text)
        while len(self._contexts) > _MOST_CONTEXTS:
            self._contexts.popitem(last=False)
        return context
