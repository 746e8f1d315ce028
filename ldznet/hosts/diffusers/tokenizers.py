"""Find a tokenizer, which is in no checkpoint: beside the file, or in the cache of Hugging Face."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ldznet.errors import HostError
from ldznet.hosts.diffusers.clip_tokenizer import END, ClipTokenizer
from ldznet.hosts.diffusers.configuration import section

# Names of the tokenizers in the cache of Hugging Face, which other programs may have filled.
_TOKENIZERS = ("openai/clip-vit-large-patch14", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K")
_SOURCE = "any Stable Diffusion installation"

_LENGTH = 77  # positions of every CLIP

# prompts -> token ids (P, L) and, per prompt, whether it was cut
Tokenize = Callable[[Sequence[str]], tuple[Tensor, tuple[bool, ...]]]


def count_tokens(ids: Tensor) -> list[int]:
    """Return the number of tokens of each text of ids (P, 77), without start and end."""
    # The end has the largest id of all; what follows the first one is padding.
    counts: list[int] = (ids.argmax(dim=-1) - 1).tolist()
    return counts


def tokenizer_folders(path: Path, configuration: Mapping[str, Any]) -> list[Path]:
    """Return the folders in which the tokenizer of a checkpoint file may lie."""
    folders = [path.with_suffix(""), path.parent / "tokenizer"]
    if version := str(section(configuration, "text").get("version", "")):
        folders += [path.parent / Path(version).name, Path(version)]
    return folders


def find_tokenizer(
    path: Path, configuration: Mapping[str, Any], download: bool, vocabulary: int
) -> tuple[ClipTokenizer, dict[str, Any]]:
    """Return the tokenizer, and the text encoder's settings where they lie with it.

    Raises:
        HostError: no tokenizer was found, or one that is damaged or belongs to another model.
    """
    for folder in tokenizer_folders(path, configuration):
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            tokenizer = read_tokenizer(folder)
            if len(tokenizer) != vocabulary:
                raise HostError(
                    f"The tokenizer in {folder} has {len(tokenizer)} entries, but the text encoder of {path.name} "
                    f"has {vocabulary}: it belongs to another model. Put the right one there, or remove it."
                )
            return tokenizer, _text_settings(folder / "config.json")
    attempts = [(name, False) for name in _TOKENIZERS] + ([(_TOKENIZERS[0], True)] if download else [])
    for name, download_it in attempts:
        if (from_hub := _from_hub(name, vocabulary, download=download_it)) is not None:
            return from_hub, {}
    download_note = "It could not be downloaded either. " if download else ""
    raise HostError(
        f"The tokenizer of {path.name} is missing: no checkpoint holds it, and neither a folder "
        f"{path.with_suffix('').name} or tokenizer beside the file (with vocab.json and merges.txt) nor the "
        f"cache of Hugging Face has it. {download_note}Copy it there from {_SOURCE}, or allow "
        f"the download of {_TOKENIZERS[0]} (--download; 2 MB)."
    )


def _from_hub(name: str, vocabulary: int, *, download: bool) -> ClipTokenizer | None:
    """Return a tokenizer from the cache of Hugging Face, or from its servers; None where it has other entries."""
    # No library, nothing in the cache, no network, a proxy, a hub that is down: all end alike.
    with contextlib.suppress(Exception):
        from huggingface_hub import hf_hub_download

        # One after the other into the same folder; CLIP's own settings are the defaults.
        files = [
            hf_hub_download(name, file, local_files_only=not download) for file in ("vocab.json", "merges.txt")
        ]
        tokenizer = read_tokenizer(Path(files[0]).parent)
        return tokenizer if len(tokenizer) == vocabulary else None
    return None


def read_tokenizer(folder: Path) -> ClipTokenizer:
    """Read the CLIP tokenizer in a folder.

    Raises:
        HostError: the folder holds no tokenizer, or a damaged one.
    """
    whole = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    if not whole and not (folder / "tokenizer.json").is_file():
        raise HostError(
            f"The tokenizer is missing: {folder} holds no vocab.json and merges.txt. Copy them there "
            f"from {_SOURCE}."
        )
    with _explained(folder):
        if whole:
            ids = _read_json(folder / "vocab.json")
            lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
            merges = [line.split() for line in lines if line and not line.startswith("#version")]
        else:
            model = _read_json(folder / "tokenizer.json")["model"]
            ids = model["vocab"]
            # Older files hold "a b", newer ones ["a", "b"].
            merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        if any(type(number) is not int for number in ids.values()):
            raise ValueError("its ids are not numbers")
        settings = _read_json(folder / "special_tokens_map.json") | _read_json(folder / "tokenizer_config.json")
        padding = settings.get("pad_token") or END
        padding = padding["content"] if isinstance(padding, dict) else padding
        length = min(int(settings.get("model_max_length", _LENGTH)), _LENGTH)
        return ClipTokenizer(ids, [(first, second) for first, second in merges], padding, length)


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty where there is no file."""
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise TypeError(f"{path.name} holds no JSON object")
    return content


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as why:
        raise HostError(
            f"The tokenizer in {folder} is damaged ({str(why)[:200] or type(why).__name__}). Copy it again from "
            f"{_SOURCE}, or remove it."
        ) from why


def _text_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a text encoder from its config.json; empty where the file is of something else."""
    settings: dict[str, Any] = _read_json(path)
    settings = settings.get("text_config", settings)
    return settings if "hidden_size" in settings else {}
