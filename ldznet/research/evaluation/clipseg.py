"""CLIPSeg as a baseline under the same measures, run by transformers.

It uses no Stable Diffusion model: only the pixels of the image, and the phrases of the prompts.

Source: Lüddecke and Ecker, Image Segmentation Using Text and Image Prompts, CVPR 2022,
https://arxiv.org/abs/2112.10003; the published weights are CIDAS/clipseg-rd64-refined.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ldznet.errors import CheckpointError
from ldznet.files import digest_of
from ldznet.hosts.host import Host, HostInfo
from ldznet.methods.method import Defaults, EncodedImage, Prompts, RandomInputs

# Mean and deviation of ImageNet, as in CLIPSeg's processor.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SUFFIXES = (".json", ".txt", ".safetensors", ".bin")  # of the files that transformers reads
_SIDE = 352  # as in its protocol and processor; the 224 in its config is the side of the CLIP inside


class ClipSeg:
    """A folder with CLIPSeg's weights and its processor, as `save_pretrained` writes them."""

    name = "clipseg"
    needs_all_prompts = False
    defaults = Defaults(resolution=384, timesteps=(0,), template="{}")

    def __init__(self, model: Any, tokenizer: Any, digest: str = "") -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self._digest = digest  # of its files, because folders of one name may hold different weights

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str = "cpu") -> ClipSeg:
        """Load a folder; nothing is downloaded.

        Raises:
            CheckpointError: the folder does not hold CLIPSeg.
        """
        from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

        try:
            model, loading = CLIPSegForImageSegmentation.from_pretrained(
                folder, local_files_only=True, output_loading_info=True
            )
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            files = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
            digest = digest_of(files)
        except (OSError, ValueError, KeyError, TypeError) as why:
            raise CheckpointError(
                f"{folder} does not hold CLIPSeg as transformers writes it ({str(why).splitlines()[0]}). Give a "
                "folder with config.json, weights and tokenizer, such as a copy of CIDAS/clipseg-rd64-refined."
            ) from why
        # transformers fills missing tensors with random numbers, which would be measured like any others.
        if missing := [*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])]:
            raise CheckpointError(
                f"{folder} does not hold CLIPSeg: {len(missing)} of its tensors are missing or of another shape, "
                f"first {min(missing)}. Give a copy of CIDAS/clipseg-rd64-refined, complete."
            )
        return cls(model.to(device), tokenizer, digest)

    @property
    def record(self) -> Mapping[str, Any]:
        """Return the method's name and a digest of the weights."""
        return {"method": self.name, "sha256": self._digest}

    def check(self, host: HostInfo) -> None:
        """Accept every model, because none is used."""

    @torch.no_grad()
    def probability(self, host: Host, encoded: EncodedImage, prompts: Prompts, inputs: RandomInputs) -> Tensor:
        """Return (P, h, w) float32 in [0, 1]."""
        device = next(self.model.parameters()).device
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION))
        pixels = ((encoded.pixels.cpu().float() + 1) / 2 - mean) / deviation
        pixels = F.interpolate(pixels, (_SIDE, _SIDE), mode="bilinear", align_corners=False, antialias=True)
        ids = self.tokenizer(list(prompts.phrases), padding=True, truncation=True, return_tensors="pt").to(device)
        logits = self.model(
            input_ids=ids["input_ids"],
            attention_mask=ids["attention_mask"],
            pixel_values=pixels.expand(len(prompts), -1, -1, -1).to(device),
        ).logits
        logits = logits.reshape(len(prompts), 1, *logits.shape[-2:]).float()
        probability = logits.sigmoid()  # before enlarging, as in CLIPSeg's protocol
        return F.interpolate(probability, encoded.pixels.shape[-2:], mode="bilinear", align_corners=True)[:, 0]
