"""The translations have a text for every label, and none for a text that the page no longer shows."""

import json
from pathlib import Path

import pytest

from ldznet.webui.controls import CONTROLS, TITLE
from ldznet.webui.settings_page import SETTINGS

ROOT = Path(__file__).parents[3]
PANEL = sorted((ROOT / "ldznet" / "webui" / "panel").glob("*.py"))


@pytest.mark.parametrize("language", ["de_DE", "ja_JP", "zh_CN"])
def test_a_translation_has_only_texts_that_the_panel_shows_and_all_labels(language):
    texts = json.loads((ROOT / "localizations" / f"{language}.json").read_text())

    shown = "".join(path.read_text() for path in PANEL) + "".join(
        f'"{text}"' for control in CONTROLS for text in (control.label, control.help, *control.choices)
    )
    shown += "".join(f'"{setting.label}"' for setting in SETTINGS)
    assert [text for text in texts if f'"{text}"' not in shown] == []
    webuis_own = {"Masked content", "Inpaint area", TITLE}  # the webui's translations have the first two
    assert {one.label for one in (*CONTROLS, *SETTINGS)} - webuis_own <= set(texts)
