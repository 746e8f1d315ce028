"""Check prompts, which are texts, and list the sentences that may be put around one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ldznet.errors import OptionError, PromptError

# The sentences that the released heads were trained with (section 4 of the paper), in the order of the code.
TEMPLATES = (
    "a photo of a {}.",
    "a photograph of a {}.",
    "an image of a {}.",
    "{}.",
    "a cropped photo of a {}.",
    "a good photo of a {}.",
    "a photo of one {}.",
    "a bad photo of a {}.",
    "a photo of the {}.",
)
# Tokenizers differ in which of these separate words; tab and line ends separate them for all.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# A tokenizer reads these as the end of the text, or as another start of it, wherever they stand.
_MARKS = re.compile(r"<\|(?:start|end)oftext\|>", re.IGNORECASE)
# Far beyond any use: a mistake, such as a whole file as a list, should not run for hours.
MOST_PROMPTS = 1000
LONGEST_PROMPT = 2000


def check_prompts(
    prompts: str | Sequence[str], negative_prompts: str | Sequence[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return both lists without outer spaces and control characters; one text counts as a list of one.

    Raises:
        PromptError: a prompt cannot be used, there is no prompt, or there are too many.
        OptionError: something else than texts was given.
    """
    return _check_list(prompts, "prompt", least=1), _check_list(negative_prompts, "negative prompt", least=0)


def split_prompts(text: str) -> tuple[str, ...]:
    """Return the parts of "bucket | red hat", without empty ones.

    A bar in curly brackets separates nothing: the extension Dynamic Prompts writes a choice so, {cross|triangle}.
    """
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        if letter == "{":
            # Without its other bracket it is a letter like others.
            depth += text.find("}", place) >= 0
        elif letter == "}":
            depth = max(0, depth - 1)
        elif letter == "|" and not depth:
            parts.append(text[start:place])
            start = place + 1
    return tuple(part.strip() for part in (*parts, text[start:]) if part.strip())


def _check_list(prompts: object, what: str, *, least: int) -> tuple[str, ...]:
    if isinstance(prompts, str):
        prompts = [prompts]
    if not isinstance(prompts, Iterable):
        name = f"{what}s".replace(" ", "_")
        raise OptionError(f"{name} is {prompts!r}, but it must be texts: give one text, or a list of them.")
    texts = [_check_text(text, f"{what.capitalize()} {number}") for number, text in enumerate(prompts, start=1)]
    if len(texts) < least:
        raise PromptError("There is no prompt. Say what to look for, such as: bucket.")
    if len(texts) > MOST_PROMPTS:
        raise PromptError(f"There are {len(texts)} prompts; at most {MOST_PROMPTS} fit into one run. Split them.")
    return tuple(texts)


def _check_text(text: object, name: str) -> str:
    if not isinstance(text, str):
        raise OptionError(f"{name} is {text!r}, but it must be a text. Give words.")
    text = _CONTROL.sub(" ", text)
    if not text.strip():
        raise PromptError(f"{name} is empty. Say what to look for, such as: bucket.")
    if len(text) > LONGEST_PROMPT:
        raise PromptError(f"{name} has {len(text)} characters; at most {LONGEST_PROMPT} are read. Shorten it.")
    try:
        # A lone surrogate comes from a broken file name or JSON; tokenizers and fonts fail on it.
        text.encode()
    except UnicodeEncodeError:
        raise PromptError(
            f"{name} holds half a character (a lone surrogate), which is not text. Type it again."
        ) from None
    if mark := _MARKS.search(text):
        raise PromptError(
            f"{name} holds {mark.group()}, which the model takes for the start or end of the text: what follows "
            "it would be lost. Leave it out."
        )
    return text.strip()
