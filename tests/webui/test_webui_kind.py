"""Which webui it is, by the modules that it has; none of them is imported for it."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from ldznet.webui import webui_kind as kinds
from ldznet.webui.webui_kind import webui_kind

OLDER = ["modules.shared", "modules.lowvram", "modules.sd_hijack"]
MODULES = {
    "a1111": OLDER,
    "forge": [*OLDER, "modules_forge", "backend.memory_management"],
    "neo": ["modules.shared", "modules_forge", "backend.memory_management"],
    "reforge": [*OLDER, "modules_forge", "ldm_patched"],
    "unsupported": ["modules.shared", "modules.sd_hijack", "modules.sdnq"],
}


@pytest.mark.parametrize("kind", MODULES)
def test_each_webui_is_known_by_files_that_are_not_imported(monkeypatch, kind):
    monkeypatch.setattr(kinds, "find_spec", lambda name: ModuleSpec(name, None) if name in MODULES[kind] else None)

    assert webui_kind().kind == kind
    assert not any(name in sys.modules for name in MODULES[kind])


@pytest.mark.parametrize("kind", MODULES)
def test_only_a_webui_that_is_not_supported_is_refused_and_the_reason_names_those_that_work(monkeypatch, kind):
    monkeypatch.setattr(kinds, "find_spec", lambda name: ModuleSpec(name, None) if name in MODULES[kind] else None)

    assert webui_kind().reason == (
        "This webui is SD.Next, whose model ldznet cannot read. ldznet works in AUTOMATIC1111's webui, in Forge, "
        "in Forge Neo and in reForge."
        if kind == "unsupported"
        else ""
    )


def test_a_module_that_is_imported_already_counts_without_a_file(monkeypatch):
    for name in ("modules", "modules.shared", "modules_forge", "backend", "backend.memory_management"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))

    assert (webui_kind().kind, webui_kind().reason) == ("neo", "")


def test_outside_of_a_webui_it_is_as_in_automatic1111():
    assert (webui_kind().kind, webui_kind().reason) == ("a1111", "")
