"""ADetailer works on every picture of a run, and calls all scripts' hooks again meanwhile, with a copy of `p`.

After its version 25.3.0, `postprocess_image`; that it and ours work together was seen in a real webui.
"""

from copy import copy
from types import SimpleNamespace

import pytest
from host.brightness import half, share
from host.process import Run


@pytest.fixture
def run(method, webui):
    """Our hooks, with ADetailer at work between the pictures and the end of a run."""
    given, hooks = [], webui.hooks

    def apply(p, args):
        given[:] = args
        hooks.apply(p, args)

    def finish(p, processed):
        hooks.finish(copy(p), SimpleNamespace(images=[], infotexts=[], comments="", index_of_first_image=0))
        hooks.apply(copy(p), given)
        hooks.finish(p, processed)

    return Run(SimpleNamespace(prepare=hooks.prepare, apply=apply, finish=finish))


def test_mask_and_overlay_join_the_results_once(run, p):
    processed = run.once(p, [{"prompt": "bright", "append": True}])

    assert len(processed.images) == 3
    assert share(processed.images[1]) == (1.0, 0.0)


def test_in_batch_the_mask_of_one_file_is_not_taken_for_a_painted_one_of_the_next(run, p):
    _, reads = run.batch(p, [half(), half(0, 255)], [{"prompt": "bright", "brush": "add"}])

    assert [share(read["image_mask"]) for read in reads] == [(1.0, 0.0), (0.0, 1.0)]


def test_in_batch_a_file_that_is_left_out_is_told_below_the_results(run, p):
    whole, _ = run.batch(p, [half(), half(0, 0)], [{"prompt": "bright"}])

    assert "Nothing to inpaint" in whole.comments
