"""Fixtures of the command line's tests."""

import os
import signal

import pytest

from ldznet.cli import segment_run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nobody(folder):
    """Permissions count: root, to whom they do not, becomes another user."""
    if not hasattr(os, "seteuid"):
        pytest.skip("permissions")
    folder.chmod(0o777)
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)
    yield
    os.seteuid(user)


@pytest.fixture
def no_model(monkeypatch):
    """A mistake is to be said before a model is loaded."""
    monkeypatch.setattr(segment_run, "load_chosen_model", lambda _: pytest.fail("a model was loaded"))


@pytest.fixture
def heard_ctrl_c():
    """A shell's background job ignores Ctrl-C, and so does all that it starts, unless it says otherwise."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
