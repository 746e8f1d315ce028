"""Examples to click and the list of words on the page of `serve`: the embedded model's alone."""

import dataclasses
import gc

import pytest

from ldznet.cli.examples import EXAMPLES, FOLDER
from ldznet.hosts.known_words import KnownWords
from ldznet.research.scenes.wording import VOCABULARY

pytest.importorskip("gradio")

from ldznet.cli.standalone_page import StandaloneApp, make_page
from ldznet.webui.session import Session

# gradio leaves an event loop open for each gr.Examples
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
WORDS = KnownWords(frozenset(("a", "dog", "bucket")), ("bucket", "dog"), {})


def components_of(host, tmp_path, words):
    """The page's components, by elem_id."""
    info = dataclasses.replace(host.info, known_words=words)
    config = make_page(Session(StandaloneApp(host, tmp_path), lambda model: model), info).get_config_file()
    gc.collect()
    return {part["props"].get("elem_id"): part for part in config["components"]}


def test_a_model_with_a_list_of_words_has_examples_and_its_words(host, tmp_path):
    components = components_of(host, tmp_path, WORDS)

    rows = components["ldznet_examples"]["props"]["samples"]
    assert [row[1] for row in rows] == [text for _, text in EXAMPLES]
    assert "ldznet_known_words" in components


def test_a_full_model_has_neither(host, tmp_path):
    assert not components_of(host, tmp_path, None).keys() & {"ldznet_examples", "ldznet_known_words"}


def test_each_example_is_there_and_has_only_words_that_the_embedded_model_knows():
    assert [name for name, _ in EXAMPLES if not (FOLDER / name).is_file()] == []
    words = KnownWords(frozenset(VOCABULARY), (), {})
    assert words.unknown(text for _, text in EXAMPLES) == []
