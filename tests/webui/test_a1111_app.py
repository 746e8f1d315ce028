"""The door to AUTOMATIC1111's webui: what it does with the webui's state."""

import sys

import pytest


@pytest.fixture
def app(webui):
    return webui.session.app


def test_work_runs_under_the_queues_lock_as_one_job_and_leaves_both_however_it_ends(app, webui):
    lock = sys.modules["modules.call_queue"].queue_lock

    assert app.run_exclusively(lock.locked) is True
    with pytest.raises(ZeroDivisionError):
        app.run_exclusively(lambda: 1 / 0)

    assert not lock.locked()
    assert webui.shared.state.jobs == ["ldznet", "end"] * 2


def test_skip_is_forgotten_once_it_was_returned_and_interrupt_is_not(app, webui):
    webui.shared.state.skipped = True
    assert [app.stop_requested(), app.stop_requested()] == [True, False]

    webui.shared.state.interrupted = True
    assert [app.stop_requested(), app.stop_requested()] == [True, True]


def test_the_text_and_the_steps_of_the_bar_are_those_of_before_on_exit(app, webui):
    state = webui.shared.state
    state.textinfo, state.sampling_step = "a run", 7

    with app.show_progress("segmenting") as show:
        show(1, 2)
        assert (state.textinfo, state.sampling_step, state.sampling_steps) == ("segmenting", 1, 2)

    assert (state.textinfo, state.sampling_step) == ("a run", 7)


def test_missing_flags_are_none_and_missing_settings_have_the_default(app):
    assert app.flag("no_such_flag") is None
    assert app.option("no_such_setting", "default") == "default"


def test_room_is_made_only_where_the_webui_saves_memory(app, webui):
    assert app.room_maker(webui.model) is None

    webui.save_memory(low=False)

    assert app.room_maker(webui.model) == webui.lowvram.send_everything_to_cpu
