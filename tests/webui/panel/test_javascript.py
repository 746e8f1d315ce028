"""What the panel does in the browser, run by Node.js: javascript/ldznet.js with the calls of wiring.py."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from ldznet.webui.page.a1111 import A1111Page
from ldznet.webui.page.forge import ForgePage
from ldznet.webui.panel.wiring import Scripts

SCRIPT = Path(__file__).parents[3] / "javascript" / "ldznet.js"
NODE = shutil.which("node")
SEARCH = ("prompt", "negative_prompt", "method", "head", "resolution", "timesteps", "seeds", "refine")
BATCH = ("img2img_batch_upload", "img2img_batch_input_dir")
SLIDERS = ("img2img_mask_blur", "img2img_mask_alpha")


def make_page(kind=A1111Page):
    """Return a page with the components of Batch."""
    page = kind()
    for name in BATCH:
        page.add(name, object())
    return page


pytestmark = pytest.mark.skipif(not NODE, reason="Node.js is not installed")


def names_of(page):
    """Return the names of the inputs, in an order that gradio may choose."""
    others = (*SEARCH, "average_templates", "shown", "redraw_request", "task", "asked")
    return list(dict.fromkeys(("tab", *reversed(page.input_names), *SLIDERS, *others)))


def run(steps, *, tab=0, kind=A1111Page):
    """Return what the steps, JavaScript, append to `results`.

    `values` has a value for each name; `call(name, more)` calls a function of the page with them.
    """
    page = make_page(kind)
    scripts, names = Scripts(page), names_of(page)
    calls = {
        "before": scripts.call("ldznetBeforeSegment")(names),
        "after": scripts.call("ldznetAfterSegment")(names),
        "drawn": scripts.call("ldznetAfterRedraw")(names),
        "changed": scripts.call("ldznetNotice", "")(names),
        "slid": scripts.call("ldznetNotice", "mask")(names),
        "grown": scripts.call("ldznetNotice", "all")(names),
    }
    functions = ", ".join(f"{name}: {code}" for name, code in calls.items())
    code = f"""
        globalThis.document = {{
            addEventListener() {{}}, documentElement: {{ toggleAttribute() {{}} }}, getElementById: () => batchTabs
        }};
        let batchTabs = {{}}; // none in reForge
        let tab = {tab}, folder = 0;
        globalThis.get_tab_index = name => name === 'mode_img2img' ? tab : folder;
        {SCRIPT.read_text()}
        const names = {json.dumps(names)}, calls = {{ {functions} }}, results = [];
        const values = Object.fromEntries(names.map(name => [name, `value of ${{name}}`]));
        values.shown = values.redraw_request = '';
        // As gradio does it: the first output is the sentence, the second one the number of a drawing.
        const call = name => {{
            const answer = calls[name](...names.map(name => values[name]));
            if (name !== 'before') values.redraw_request = answer[1];
            return answer;
        }};
        const segment = () => {{
            values.shown = call('before')[names.indexOf('asked')];
            return call('after');
        }};
        {steps}
        console.log(JSON.stringify(results));
    """
    done = subprocess.run([NODE, "-e", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("tab", range(7))
@pytest.mark.parametrize("kind", [A1111Page, ForgePage])
def test_only_the_images_of_the_open_tab_are_sent(kind, tab):
    (values,) = run(f"folder = {int(tab == 6)}; results.push(call('before'));", tab=min(tab, 5), kind=kind)

    page = make_page(kind)
    sent = dict(zip(names_of(page), values, strict=True))
    assert (sent["tab"], sent["prompt"], sent["asked"]) == (tab, "value of prompt", "1")
    images = [*(name for names in page.tabs for name in names), *BATCH]
    expected = [[BATCH[0]], [BATCH[1]]][tab - 5] if tab >= 5 else list(page.tabs[tab])
    assert [name for name in images if sent[name] is not None] == expected


def test_where_batch_has_no_tabs_its_folder_is_open():
    steps = "batchTabs = null; get_tab_index = name => { if (name !== 'mode_img2img') throw name; return 5; };"

    (values,) = run(f"{steps} results.push(call('before'));")

    sent = dict(zip(names_of(make_page()), values, strict=True))
    assert (sent["tab"], sent[BATCH[0]], sent[BATCH[1]]) == (6, None, f"value of {BATCH[1]}")


def test_before_anything_was_segmented_nothing_is_out_of_date_or_drawn():
    assert run("values.prompt = 'b'; results.push(call('changed'), call('slid'));") == [["", ""], ["", ""]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("values.img2img_image = 'b'", "another picture"),
        ("tab = 2", "another picture"),
        ("values.prompt = 'b'", "other words"),
        ("values.negative_prompt = 'b'", "other words"),
        ("values.head = 'b'", "another method"),
        ("values.refine = true", "other settings of the search"),
    ],
)
def test_what_is_shown_is_marked_at_once_and_no_slider_moves_it(change, said):
    marked, slid = run(f"segment(); {change}; results.push(call('changed'), call('slid'));")

    assert f"belongs to {said}. Press Segment." in marked[0]
    assert (slid[0], slid[1]) == (marked[0], "")


@pytest.mark.parametrize(
    "change",
    [
        "values.prompt = ' value of prompt '",
        "values.img2img_sketch = 'b'",  # a closed tab's
        "values.img2img_mask_blur = 'b'",  # of Inpaint sketch only
        "values.threshold = 1",
    ],
)
def test_what_does_not_matter_marks_nothing(change):
    assert run(f"segment(); {change}; results.push(call('changed')[0]);") == [""]


def test_an_event_that_was_sent_before_a_drawing_was_asked_for_does_not_take_it_back():
    steps = """
        segment();
        const early = { ...values };
        results.push(call('grown')[1], calls.changed(...names.map(name => early[name]))[1]);
    """
    assert run(steps) == ["2 all", "2 all"]


@pytest.mark.parametrize(("version", "expected"), [("3.41.2", [False, True, False]), ("4.40.0", [False] * 3)])
def test_gradio_3_gets_no_answer_that_changes_nothing_since_it_would_report_every_canvas_as_changed(
    version, expected
):
    steps = f"""
        segment();
        globalThis.gradio_config = {{ version: '{version}' }};
        const changed = note => calls.changed(...names.map(name => values[name]), note, values.redraw_request);
        values.prompt = 'b';
        const [note] = changed('');
        results.push(changed('') instanceof Promise, changed(note) instanceof Promise);
        values.prompt = 'value of prompt';
        results.push(changed(note) instanceof Promise);
    """
    assert run(steps) == expected


def test_strokes_on_a_canvas_are_another_picture():
    steps = """
        values.img2maskimg = { image: 'a', mask: 'b' };
        segment();
        values.img2maskimg = { image: 'a', mask: 'b' };
        results.push(call('changed')[0]);
        values.img2maskimg = { image: 'a', mask: 'c' };
        results.push(call('changed')[0]);
    """
    same, other = run(steps, tab=2)

    assert same == ""
    assert "another picture" in other


def test_the_old_words_bring_the_result_back_with_the_slider_as_it_is_now():
    steps = """
        segment();
        values.prompt = 'b';
        call('changed'); call('slid');
        values.prompt = 'value of prompt';
        results.push(call('changed'));
    """
    ((marked, drawing),) = run(steps)

    assert marked == ""
    assert drawing.endswith(" mask")


def test_one_drawing_at_a_time_and_then_only_the_newest():
    steps = """
        segment();
        const first = call('slid')[1];
        results.push(first, ...['slid', 'grown', 'slid'].map(name => call(name)[1] === first));
        results.push(call('drawn')[1]);
        results.push(call('drawn')[1] === results.at(-1));
    """
    first, *waiting, second, is_rest = run(steps)

    assert first.endswith(" mask")
    assert waiting == [True, True, True]
    assert (second != first, second.endswith(" all")) == (True, True)
    assert is_rest


def test_words_that_change_while_segment_runs_mark_its_result():
    steps = """
        values.shown = call('before')[names.indexOf('asked')];
        values.prompt = 'b';
        call('changed');
        results.push(call('after')[0]);
    """
    (marked,) = run(steps)

    assert "belongs to other words" in marked


def test_a_segment_that_failed_leaves_what_is_shown_as_it_was():
    steps = """
        segment();
        values.prompt = 'b';
        call('before');
        results.push(call('after')[0]);
    """
    (marked,) = run(steps)

    assert "belongs to other words" in marked


def test_a_slider_that_moves_while_segment_runs_is_drawn_afterwards():
    steps = """
        segment();
        values.shown = call('before')[names.indexOf('asked')];
        results.push(call('slid')[1], call('after')[1]);
    """
    meanwhile, afterwards = run(steps)

    assert (meanwhile, afterwards.endswith(" mask")) == ("", True)
