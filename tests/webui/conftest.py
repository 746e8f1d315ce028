"""What tests of the webui's parts share."""

import asyncio

import pytest


@pytest.fixture
def closed_loops(monkeypatch):
    """Close the event loops that gradio makes with every Blocks, and forgets."""
    loops, make = [], asyncio.new_event_loop

    def make_and_note():
        loops.append(make())
        return loops[-1]

    monkeypatch.setattr(asyncio, "new_event_loop", make_and_note)
    yield
    for loop in loops:
        loop.close()
