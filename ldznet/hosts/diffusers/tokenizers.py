"""Find a tokenizer, which is in no checkpoint: beside the file, or in the cache of Hugging Face."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ldznet.errors import HostError
from ldznet.hosts.diffusers.configuration import section

# Names of the tokenizers in the cache of Hugging Face, which other programs may have filled.
_TOKENIZERS = ("openai/clip-vit-large-patch14", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K")
_SOURCE = "any Stable Diffusion installation"

# prompts -> token ids (P, L) and, per prompt, whether it was cut
Tokenize = Callable[[Sequence[str]], tuple[Tensor, tuple[bool, ...]]]


def tokenizer_folders(path: Path, configuration: Mapping[str, Any]) -> list[Path]:
    """Return the folders in which the tokenizer of a checkpoint file may lie."""
    folders = [path.with_suffix(""), path.parent / "tokenizer"]
    if version := str(section(configuration, "text").get("version", "")):
        folders += [path.parent / Path(version).name, Path(version)]
    return folders


def find_tokenizer(
    path: Path, configuration: Mapping[str, Any], download: bool, vocabulary: int
) -> tuple[Any, dict[str, Any]]:
    """Return the tokenizer, and the text encoder's settings where they lie with it.

    Raises:
        HostError: no tokenizer was found, or one that is damaged or belongs to another model.
    """
    from transformers import CLIPTokenizer

    for folder in tokenizer_folders(path, configuration):
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            tokenizer = read_tokenizer(folder)
            if len(tokenizer) != vocabulary:
                raise HostError(
                    f"The tokenizer in {folder} has {len(tokenizer)} entries, but the text encoder of {path.name} "
                    f"has {vocabulary}: it belongs to another model. Put the right one there, or remove it."
                )
            return tokenizer, _text_settings(folder / "config.json")
    # transformers answers a name that it has nothing of with an empty tokenizer instead of an error.
    for name in _TOKENIZERS:
        with contextlib.suppress(OSError, ValueError, KeyError):
            if len(tokenizer := CLIPTokenizer.from_pretrained(name, local_files_only=True)) == vocabulary:
                return tokenizer, {}
    if download:
        with contextlib.suppress(Exception):  # no network, a proxy, a hub that is down: all end alike
            if len(tokenizer := CLIPTokenizer.from_pretrained(_TOKENIZERS[0])) == vocabulary:
                return tokenizer, {}
    download_note = "It could not be downloaded either. " if download else ""
    raise HostError(
        f"The tokenizer of {path.name} is missing: no checkpoint holds it, and neither a folder "
        f"{path.with_suffix('').name} or tokenizer beside the file (with vocab.json and merges.txt) nor the "
        f"cache of Hugging Face has it. {download_note}Copy it there from {_SOURCE}, or allow "
        f"the download of {_TOKENIZERS[0]} (--download; 2 MB)."
    )


def read_tokenizer(folder: Path) -> Any:
    """Read the CLIP tokenizer in a folder.

    Raises:
        HostError: the folder holds no tokenizer, or a damaged one.
    """
    from transformers import CLIPTokenizer

    whole = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    if not whole and not (folder / "tokenizer.json").is_file():
        raise HostError(
            f"The tokenizer is missing: {folder} holds no vocab.json and merges.txt. Copy them there "
            f"from {_SOURCE}."
        )
    with _explained(folder):
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as why:  # the tokenizers library raises bare Exceptions
        raise HostError(
            f"The tokenizer in {folder} is damaged ({str(why)[:200] or type(why).__name__}). Copy it again from "
            f"{_SOURCE}, or remove it."
        ) from why


def _text_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a text encoder from its config.json; empty where the file is of something else."""
    if not path.is_file():
        return {}
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    settings = settings.get("text_config", settings)
    return settings if "hidden_size" in settings else {}


def padded_with_zeros(tokenizer: Any) -> Any:
    """Return the same tokenizer for OpenCLIP, which pads with token 0: "!"."""
    return type(tokenizer).from_pretrained(tokenizer.name_or_path, local_files_only=True, pad_token="!")  # noqa: S106


def tokenize_with(tokenizer: Any) -> Tokenize:
    """Return a CLIP tokenizer of transformers as a function from texts to ids, padded to its full length."""

    def tokenize(prompts: Sequence[str]) -> tuple[Tensor, tuple[bool, ...]]:
        length = min(tokenizer.model_max_length, 77)
        whole = tokenizer(list(prompts), truncation=False, verbose=False)["input_ids"]
        padded = tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        return padded["input_ids"], tuple(len(ids) > length for ids in whole)

    return tokenize
