"""The text encoder of a checkpoint file, and its tokenizer, which is in no checkpoint.

The tokenizer is looked for beside the file and in the cache of Hugging Face.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ldznet.errors import HostError
from ldznet.heads.weight_files import TensorFile
from ldznet.hosts.diffusers.parts import load_strictly, section, state_of
from ldznet.hosts.host import Family

CLIP = {"sd1": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}
OPEN_CLIP = {"sd2": "cond_stage_model.model.", "sdxl": "conditioner.embedders.1.model."}

# Names of the tokenizers in the cache of Hugging Face, which other programs may have filled.
_TOKENIZERS = ("openai/clip-vit-large-patch14", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K")

# prompts -> token ids (P, L) and, per prompt, whether it was cut
Tokenize = Callable[[Sequence[str]], tuple[Tensor, tuple[bool, ...]]]


@dataclass(frozen=True)
class TextEncoder:
    """One text encoder with its tokenizer; Stable Diffusion XL has two of them."""

    model: Any
    tokenize: Tokenize
    penultimate: bool = False  # the state before the last layer, without the final norm (SDXL)


def build_text(
    file: TensorFile, family: Family, yaml: Mapping[str, Any], path: Path, download: bool
) -> list[TextEncoder]:
    """The text encoders of a checkpoint file, two for XL, with their tokenizers.

    Raises:
        HostError: a part is missing, or does not fit.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    embedding = (
        f"{OPEN_CLIP[family]}token_embedding.weight"
        if family == "sd2"
        else (f"{CLIP[family]}text_model.embeddings.token_embedding.weight")
    )
    if embedding not in file.shapes:
        raise HostError(
            f"The text encoder of {path} is not complete: it has no {embedding}. Use the original file."
        )
    tokenizer, settings = _find_tokenizer(path, yaml, download, file.shapes[embedding][0])
    encoders = []
    if family in CLIP:
        state = convert_ldm_clip_checkpoint(state_of(file, CLIP[family]))
        state = {n: t for n, t in state.items() if not n.endswith("position_ids")}
        config = settings or _text_config(state, "text_model.", "quick_gelu")
        model = CLIPTextModel(CLIPTextConfig(**config))
        load_strictly(model, state, "text encoder", path)
        encoders.append(TextEncoder(model, tokenize_with(tokenizer), penultimate=family == "sdxl"))
    if family in OPEN_CLIP:
        prefix = OPEN_CLIP[family]
        state = state_of(file, prefix)
        layers = 1 + max(int(name.split("resblocks.")[1].split(".")[0]) for name in state if "resblocks." in name)
        if family == "sd2":  # the last layer is not used: the text is read one layer before
            layers -= 1
            state = {name: t for name, t in state.items() if f"resblocks.{layers}." not in name}
        positions, width = file.shapes[f"{prefix}positional_embedding"]
        config = {
            "vocab_size": file.shapes[f"{prefix}token_embedding.weight"][0],
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": max(width // 64, 1),
            "max_position_embeddings": positions,
            "hidden_act": "gelu",
            "bos_token_id": file.shapes[f"{prefix}token_embedding.weight"][0] - 2,
            "eos_token_id": file.shapes[f"{prefix}token_embedding.weight"][0] - 1,
        }
        kind = CLIPTextModel
        if family == "sdxl":
            kind = CLIPTextModelWithProjection
            config["projection_dim"] = file.shapes[f"{prefix}text_projection"][1]
        model = kind(CLIPTextConfig(**config))
        converted = convert_open_clip_checkpoint(model, state, prefix)
        load_strictly(model, {n: t for n, t in converted.items() if n != "text_projection"}, "text encoder", path)
        # OpenCLIP pads with the token 0, which is "!"
        padding = {"pad_token": "!"}
        zero_padded = type(tokenizer).from_pretrained(tokenizer.name_or_path, local_files_only=True, **padding)
        encoders.append(TextEncoder(model, tokenize_with(zero_padded), penultimate=family == "sdxl"))
    return encoders


def _text_config(state: Mapping[str, Tensor], prefix: str, activation: str) -> dict[str, Any]:
    """The settings of a CLIP text encoder with 64 channels a head, as all published ones have."""
    vocabulary, width = state[f"{prefix}embeddings.token_embedding.weight"].shape
    layers = {name.split("layers.")[1].split(".")[0] for name in state if "layers." in name}
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": state[f"{prefix}encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(width // 64, 1),
        "max_position_embeddings": state[f"{prefix}embeddings.position_embedding.weight"].shape[0],
        "hidden_act": activation,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
    }


def tokenizer_folders(path: Path, yaml: Mapping[str, Any]) -> list[Path]:
    """Where the tokenizer of a checkpoint file may lie."""
    folders = [path.with_suffix(""), path.parent / "tokenizer"]
    if version := str(section(yaml, "cond_stage_config").get("version", "")):
        folders += [path.parent / Path(version).name, Path(version)]
    return folders


def _find_tokenizer(
    path: Path, yaml: Mapping[str, Any], download: bool, vocabulary: int
) -> tuple[Any, dict[str, Any]]:
    """The tokenizer, and the text encoder's settings where they lie with it."""
    from transformers import CLIPTokenizer

    for folder in tokenizer_folders(path, yaml):
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            with _tokenizer_explained(folder):
                found = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            if len(found) != vocabulary:
                raise HostError(
                    f"The tokenizer in {folder} has {len(found)} entries, but the text encoder of {path.name} has "
                    f"{vocabulary}: it belongs to another model. Put the right one there, or remove it."
                )
            return found, _text_settings(folder / "config.json")
    # transformers answers a name that it has nothing of with an empty tokenizer instead of an error.
    for name in _TOKENIZERS:
        with contextlib.suppress(OSError, ValueError, KeyError):
            if len(found := CLIPTokenizer.from_pretrained(name, local_files_only=True)) == vocabulary:
                return found, {}
    if download:
        with contextlib.suppress(Exception):  # no network, a proxy, a hub that is down: all end alike
            if len(found := CLIPTokenizer.from_pretrained(_TOKENIZERS[0])) == vocabulary:
                return found, {}
    tried = "It could not be downloaded either. " if download else ""
    raise HostError(
        f"The tokenizer of {path.name} is missing: no checkpoint holds it, and neither a folder "
        f"{path.with_suffix('').name} or tokenizer beside the file (with vocab.json and merges.txt) nor the "
        f"cache of Hugging Face has it. {tried}Copy it there from any Stable Diffusion installation, or allow "
        f"the download of {_TOKENIZERS[0]} (--download; 2 MB)."
    )


@contextlib.contextmanager
def _tokenizer_explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as why:  # the tokenizers library raises bare Exceptions
        raise HostError(
            f"The tokenizer in {folder} is damaged ({str(why)[:200] or type(why).__name__}). Copy it again from "
            "any Stable Diffusion installation, or remove it."
        ) from why


def _text_settings(path: Path) -> dict[str, Any]:
    import json

    if not path.is_file():
        return {}
    settings: dict[str, Any] = json.loads(path.read_text())
    settings = settings.get("text_config", settings)
    return settings if "hidden_size" in settings else {}


def tokenize_with(tokenizer: Any) -> Tokenize:
    """A CLIP tokenizer of transformers as a function from texts to ids, padded to its full length."""

    def tokenize(prompts: Sequence[str]) -> tuple[Tensor, tuple[bool, ...]]:
        length = min(tokenizer.model_max_length, 77)
        whole = tokenizer(list(prompts), truncation=False, verbose=False)["input_ids"]
        padded = tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        return padded["input_ids"], tuple(len(ids) > length for ids in whole)

    return tokenize
