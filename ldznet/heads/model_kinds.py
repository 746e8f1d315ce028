"""Recognise what a file of weights seems to be, by the names and shapes of its tensors. Opens no file."""

from __future__ import annotations

import re
from collections.abc import Mapping

_UNET = "model.diffusion_model."
_LORA = r"lora_(up|down|A|B)\b|^lora_|_lora\.|\.lora\.|lora_linear_layer|\.lokr_|\.hada_|\.oft_|\.on_input$"

# In this order: the first pattern that a name matches decides.
_PATTERNS: tuple[tuple[str, str], ...] = (
    (_LORA, "a LoRA, which changes a model but is none"),
    (r"^control_model\.|controlnet_cond_embedding|^zero_convs\.", "a ControlNet"),
    (
        r"^string_to_param|^string_to_token|^emb_params$|^clip_[lg]$|^<[^<>|]+>$",
        "a textual inversion (an embedding), which adds a word to a model but is none",
    ),
    (
        r"joint_blocks\.|double_blocks\.|single_transformer_blocks\.",
        "a Stable Diffusion 3 or Flux model, which has no UNet",
    ),
)

_LAST_PATTERNS: tuple[tuple[str, str], ...] = (
    (r"^model_ema\.", "a checkpoint with averaged (EMA) weights only"),
    (r"^first_stage_model\.|^(encoder|decoder)\.(down|up|mid|layers|\d)", "a VAE"),
    (r"^input_blocks\.0\.0\.weight$", "a UNet alone, without VAE and text encoder"),
    (r"^down_blocks\.|^mid_block\.", "a UNet in diffusers' layout"),
    (r"^text_model\.|^cond_stage_model\.|^(text_model\.)?encoder\.layers\.", "a text encoder"),
)


def model_kind(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return what a file with these tensors seems to be, as the end of a sentence "it seems to be ..."."""
    names = list(shapes)

    def some(pattern: str) -> bool:
        return any(re.search(pattern, name) for name in names)

    for pattern, kind in _PATTERNS:
        if some(pattern):
            return kind
    if some(rf"^{_UNET}final\.0\.weight") and some("attn3"):
        return "an LD-ZNet checkpoint in the released layout"
    if some(r"^final\.12\.weight$"):
        return "a segmentation head"
    if is_refiner(shapes):
        return "a Stable Diffusion XL refiner, which finishes images of the base model and cannot segment"
    if some(r"^conditioner\.embedders\.0\.transformer\.") and some(r"^conditioner\.embedders\.1\."):
        return "a Stable Diffusion XL checkpoint"
    first = shapes.get(f"{_UNET}input_blocks.0.0.weight", ())
    if first:
        return _kind_of_unet(shapes, first)
    for pattern, kind in _LAST_PATTERNS:
        if some(pattern):
            return kind
    return f"something that ldznet does not know ({len(names)} tensors, first {names[0] if names else 'none'})"


def is_refiner(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether this is the refiner of Stable Diffusion XL: size labels, but one text encoder."""
    open_clip = "conditioner.embedders.0.model."
    return f"{_UNET}label_emb.0.0.weight" in shapes and any(name.startswith(open_clip) for name in shapes)


def _kind_of_unet(shapes: Mapping[str, tuple[int, ...]], first: tuple[int, ...]) -> str:
    """Return the kind of a checkpoint with a UNet; `first` is the shape of its first convolution."""
    # The width of the text that the UNet reads: 768 in 1.x, 1024 in 2.x, 2048 in XL.
    context = next((shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")), 0)
    # Input channels: 4 of the latent, with 5 of mask and masked image in addition, or 4 of the image to edit.
    if len(first) == 4 and first[1] == 9:
        return "a Stable Diffusion inpainting checkpoint"
    if len(first) == 4 and first[1] == 8:
        return "an InstructPix2Pix checkpoint"
    open_clip = ("cond_stage_model.model.transformer.resblocks", "conditioner.embedders.0.model.transformer.")
    if context == 1024 or any(name.startswith(open_clip) for name in shapes):
        return "a Stable Diffusion 2.x checkpoint"
    if context == 2048 or any(name.startswith("conditioner.embedders.") for name in shapes):
        return "a Stable Diffusion XL checkpoint"
    return "a plain Stable Diffusion 1.x checkpoint: the diffusion model alone, with no segmentation head in it"
