"""Axes of ours in the webui's X/Y/Z plot, against a stand-in of it."""

import copy
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi import HTTPException
from host.brightness import half, share
from host.process import Processing

from ldznet.errors import LdznetError
from ldznet.webui.run import axes

LABELS = [
    "[LD-ZNet] What to select",
    "[LD-ZNet] What to leave out",
    "[LD-ZNet] Method",
    "[LD-ZNet] Head",
    "[LD-ZNet] Timesteps",
    "[LD-ZNet] Threshold",
    "[LD-ZNet] Grow or shrink (px)",
    "[LD-ZNet] Feather (px)",
    "[LD-ZNet] Objects",
]


class AxisOptionImg2Img:
    """xyz_grid.AxisOptionImg2Img: shown in img2img only."""

    is_img2img = True

    def __init__(self, label, type, apply, format_value=None, confirm=None, cost=0.0, choices=None, prepare=None):
        self.label, self.type, self.apply = label, type, apply
        self.confirm, self.cost, self.choices = confirm, cost, choices


@pytest.fixture
def options(monkeypatch, webui):
    """The plot's axes, by label, when the webui is about to build its page."""
    plot = SimpleNamespace(axis_options=[], AxisOptionImg2Img=AxisOptionImg2Img)
    scripts = SimpleNamespace(
        scripts_data=[
            SimpleNamespace(path="/webui/scripts/loopback.py", module=SimpleNamespace()),
            SimpleNamespace(path="/webui/scripts/xyz_grid.py", module=plot),
        ]
    )
    monkeypatch.setitem(sys.modules, "modules.scripts", scripts)
    monkeypatch.setattr(sys.modules["modules"], "scripts", scripts, raising=False)
    for _ in range(2):  # the page may be built again
        axes.add_axes(webui.session.app, webui.session.head_files)
    assert [option.label for option in plot.axis_options] == LABELS
    return {option.label.removeprefix(axes.PREFIX): option for option in plot.axis_options}


def plot(run, p, args, *used):
    """(axis, its texts) ... -> per cell what `p.init` has read, and the copy of `p` (xyz_grid.py:663)."""
    read = [(axis, [axis.type(text) for text in texts]) for axis, texts in used]
    for axis, values in read:
        axis.confirm(p, values)
    cells = [()]
    for axis, values in read:
        cells = [(*cell, (axis, value, values)) for cell in cells for value in values]
    copies = []
    for cell in cells:
        pc = copy.copy(p)  # shallow, so that the cells share what lies in p
        for axis, value, values in cell:
            axis.apply(pc, value, values)
        run.process_images(pc, args)
        copies.append(pc)
    return copies


@pytest.fixture
def p(webui):
    picture = half(200, 100)  # probabilities 0.78 and 0.39
    return Processing(webui.model, [picture])


def test_the_axes_come_once_however_often_the_page_is_built(options):
    assert len(options) == len(LABELS)


def test_each_cell_of_a_threshold_axis_gets_its_own_mask_and_no_network_runs_again(options, run, p, method):
    cells = plot(run, p, [{"prompt": "bright"}], (options["Threshold"], ["0.2", "0.6"]))

    assert [share(cell.read["image_mask"]) for cell in cells] == [(1.0, 1.0), (1.0, 0.0)]
    assert method.calls == 1


def test_words_and_thresholds_make_a_grid(options, run, p, method):
    cells = plot(
        run,
        p,
        [{"prompt": "unicorn"}],
        (options["What to select"], ["bright", "dark"]),
        (options["Threshold"], ["0.3", "0.5"]),
    )

    found = [share(cell.read["image_mask"]) for cell in cells]
    assert found == [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 1.0)]
    assert method.calls == 2


def test_grow_feather_and_negative_words_have_an_effect(options, run, p):
    args = [{"prompt": "bright"}]
    grown = plot(run, p, args, (options["Grow or shrink (px)"], ["0", "8"]))
    soft = plot(run, p, args, (options["Feather (px)"], ["0", "4.5"]))
    without = plot(run, p, args, (options["What to leave out"], ["unicorn"]))

    sizes = [np.asarray(cell.read["image_mask"]).astype(bool).sum() for cell in grown]
    assert sizes[1] > sizes[0]
    assert [len(np.unique(cell.read["image_mask"])) > 2 for cell in soft] == [False, True]
    assert share(without[0].read["image_mask"]) == (1.0, 0.0)


def test_each_cell_repaints_another_object(options, run, p, method):
    p.init_images[0].paste((0,) * 3, (20, 0, 36, 64))  # two bright parts, the second of which is larger

    cells = plot(run, p, [{"prompt": "bright"}], (options["Objects"], ["1", "2", "1 2"]))

    masks = [np.asarray(cell.read["image_mask"]) > 127 for cell in cells]
    assert [(mask[30, 8], mask[30, 50]) for mask in masks] == [(False, True), (True, False), (True, True)]
    assert method.calls == 1


def test_a_timestep_and_a_method_of_an_axis_reach_the_network(options, run, p, method):
    cells = plot(run, p, [{"prompt": "bright"}], (options["Timesteps"], ["300", "500"]))

    assert method.calls == 2
    assert [cell.extra_generation_params is p.extra_generation_params for cell in cells] == [True, True]
    assert p.extra_generation_params["LD-ZNet timesteps"] == "500"  # of the last cell, nothing of the first


def test_the_text_below_a_cell_is_the_cells_own(options, run, p):
    plot(run, p, [{"prompt": "bright"}], (options["Threshold"], ["0.3", "0.5"]))

    assert p.extra_generation_params["LD-ZNet threshold"] == "0.5"  # of the last cell
    assert p.extra_generation_params["LD-ZNet prompt"] == "bright"


def test_an_axis_switches_the_panel_on(options, run, p):
    cells = plot(run, p, [False, "bright"], (options["Threshold"], ["0.5"]))

    assert share(cells[0].read["image_mask"]) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("axis", "value", "said"),
    [
        ("Threshold", "1.5", "Threshold is 1.5, but it must be from 0.0 to 1.0: "),
        ("Timesteps", "1000", "Timesteps is '1000'"),
        (
            "Method",
            "magic",
            "Method is 'magic', which is not known: give one of auto, head, attention, difference",
        ),
        ("Head", "gone.safetensors", "There is no head 'gone.safetensors' (there: "),
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_painted(options, run, p, method, axis, value, said):
    with pytest.raises(LdznetError) as refused:
        plot(run, p, [{"prompt": "bright"}], (options[axis], ["0", value] if axis == "Threshold" else [value]))

    assert str(refused.value).startswith(said)
    assert method.calls == 0


@pytest.mark.parametrize(("axis", "value"), [("Threshold", "1.5"), ("Head", "gone.safetensors")])
def test_a_program_is_told_that_a_value_is_wrong_by_a_422(options, run, p, axis, value):
    p.is_api = True

    with pytest.raises(HTTPException) as refused:
        plot(run, p, [{"prompt": "bright"}], (options[axis], [value]))

    assert refused.value.status_code == 422
    assert value in refused.value.detail


def test_methods_and_heads_are_chosen_from_a_list(options):
    assert options["Method"].choices() == ["auto", "head", "attention", "difference"]
    assert options["Head"].choices()[0] == "automatic"
    assert options["Threshold"].choices is None


def test_what_is_slow_to_change_goes_in_the_outer_loop(options):
    costs = [options[name].cost for name in ("Threshold", "What to select", "Method", "Head")]

    assert costs == sorted(costs)
    assert len(set(costs)) == 4
