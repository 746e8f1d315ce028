"""Example images and prompts to click on the page of `serve`, and the list of words, for the embedded model alone.

A full checkpoint needs neither: it knows words without end, and its images are the user's.
"""

from __future__ import annotations

from typing import Any

from ldznet.hosts.known_words import KnownWords
from ldznet.methods.load import MODELS

FOLDER = MODELS / "tiny" / "scenes"
# File of an image and a prompt that is true of something in it.
EXAMPLES = (
    ("bucket-fluent-3d.webp", "bucket"),
    ("dogs.webp", "dogs"),
    ("cars.webp", "red car | blue car"),
    ("fruit.webp", "grapes | banana"),
    ("animals.webp", "fox"),
    ("kitchen.webp", "teapot | spoon"),
)


def add_examples(image: Any, prompt: Any, words: KnownWords) -> None:
    """Add rows that fill the components `image` and `prompt` when they are clicked, and the list of all words."""
    import gradio as gr

    rows = [[str(FOLDER / name), text] for name, text in EXAMPLES if (FOLDER / name).is_file()]
    if rows:
        gr.Examples(rows, [image, prompt], label="Examples: click one, then Segment", elem_id="ldznet_examples")
    with gr.Accordion("Words that this model knows", open=False, elem_id="ldznet_known_words"):
        gr.Markdown(", ".join(words.nouns))
