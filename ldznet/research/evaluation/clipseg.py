"""CLIPSeg as a baseline under the same measures, run by transformers.

It needs no Stable Diffusion model: of the picture it takes the pixels alone, of the prompts the phrases.

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

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as in CLIPSeg's processor
_READ = (".json", ".txt", ".safetensors", ".bin")  # what transformers reads of a folder
_SIDE = 352  # of its protocol and its processor; the model's config has 224, of the CLIP in it


class ClipSeg:
    """A folder with CLIPSeg's weights and its processor, as `save_pretrained` writes them."""

    name = "clipseg"
    needs_all_prompts = False
    defaults = Defaults(resolution=384, timesteps=(0,), template="{}")

    def __init__(self, model: Any, tokenizer: Any, digest: str = "") -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self._digest = digest  # of its files: folders of one name may hold different weights

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str = "cpu") -> ClipSeg:
        """Read a folder; nothing is downloaded.

        Raises:
            CheckpointError: the folder does not hold CLIPSeg.
        """
        from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

        try:
            model, said = CLIPSegForImageSegmentation.from_pretrained(
                folder, local_files_only=True, output_loading_info=True
            )
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            files = sorted(path for path in folder.iterdir() if path.suffix in _READ)
            digest = digest_of(files)
        except (OSError, ValueError, KeyError, TypeError) as why:
            raise CheckpointError(
                f"{folder} does not hold CLIPSeg as transformers writes it ({str(why).splitlines()[0]}). Give a "
                "folder with config.json, weights and tokenizer, such as a copy of CIDAS/clipseg-rd64-refined."
            ) from why
        # transformers fills what it does not find with random numbers, which would be measured like any others.
        if missing := [*said["missing_keys"], *(name for name, *_ in said["mismatched_keys"])]:
            raise CheckpointError(
                f"{folder} does not hold CLIPSeg: {len(missing)} of its tensors are missing or of another shape, "
                f"first {min(missing)}. Give a copy of CIDAS/clipseg-rd64-refined, complete."
            )
        return cls(model.to(device), tokenizer, digest)

    @property
    def record(self) -> Mapping[str, Any]:
        """Which weights they are."""
        return {"method": self.name, "sha256": self._digest}

    def check(self, host: HostInfo) -> None:
        """It fits every model, since it uses none."""

    @torch.no_grad()
    def probability(self, host: Host, picture: EncodedImage, prompts: Prompts, draw: RandomInputs) -> Tensor:
        """-> (P, h, w) float32 in [0, 1]."""
        device = next(self.model.parameters()).device
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION))
        pixels = ((picture.pixels.cpu().float() + 1) / 2 - mean) / deviation
        pixels = F.interpolate(pixels, (_SIDE, _SIDE), mode="bilinear", align_corners=False, antialias=True)
        ids = self.tokenizer(list(prompts.phrases), padding=True, truncation=True, return_tensors="pt").to(device)
        logits = self.model(
            input_ids=ids["input_ids"],
            attention_mask=ids["attention_mask"],
            pixel_values=pixels.expand(len(prompts), -1, -1, -1).to(device),
        ).logits
        logits = logits.reshape(len(prompts), 1, *logits.shape[-2:]).float()
        found = logits.sigmoid()  # first, then enlarged: CLIPSeg's protocol
        return F.interpolate(found, picture.pixels.shape[-2:], mode="bilinear", align_corners=True)[:, 0]
