"""What the panel does in the browser, run by Node.js: javascript/ldznet.js with the calls of wiring.py."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from ldznet.webui.controls import MASK_CONTROLS
from ldznet.webui.page.a1111 import A1111Page
from ldznet.webui.page.forge import ForgePage
from ldznet.webui.panel.wiring import REDRAWN, Scripts

SCRIPT = Path(__file__).parents[3] / "javascript" / "ldznet.js"
NODE = shutil.which("node")
SEARCH = ("prompt", "negative_prompt", "method", "head", "resolution", "timesteps", "seeds", "refine")
BATCH = ("img2img_batch_upload", "img2img_batch_input_dir")
AS_IT_IS = {"__type__": "update"}
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
    others = (*SEARCH, "average_templates", *MASK_CONTROLS, "shown", "view", "task", "asked")
    return list(dict.fromkeys(("tab", *reversed(page.input_names), *SLIDERS, *others)))


def run(steps, *, tab=0, kind=A1111Page):
    """Return what the steps, JavaScript, append to `results`.

    `values` has a value for each name; `call(name)` calls a function of the page with them and returns the
    sentence, or "waits" while it has no answer. `asked` are the requests to draw; `drawn(status, content)` answers
    the oldest one.
    """
    page = make_page(kind)
    scripts, names = Scripts(page), names_of(page)
    calls = {
        "before": scripts.call("ldznetBeforeSegment")(names),
        "after": scripts.call("ldznetAfterSegment")(names),
        "changed": scripts.call("ldznetNotice", "")(names),
        "slid": scripts.call("ldznetNotice", "mask")(names),
        "grown": scripts.call("ldznetNotice", "all")(names),
    }
    functions = ", ".join(f"{name}: {code}" for name, code in calls.items())
    code = f"""
        globalThis.document = {{
            addEventListener() {{}}, documentElement: {{ toggleAttribute() {{}} }},
            getElementById: () => batchTabs,
            createElement: () => ({{ set textContent(text) {{ this.innerHTML = text.replace('<', '&lt;'); }} }}),
        }};
        globalThis.location = {{ pathname: '/sub' }};
        const asked = [], waiting = [], later = () => new Promise(setImmediate);
        globalThis.fetch = (address, {{ body }}) => {{
            asked.push([address, JSON.parse(body)]);
            return new Promise(resolve => waiting.push(resolve));
        }};
        const drawn = (status, content) => {{
            waiting.shift()({{ ok: status === 200, status, json: async () => content }});
            return later();
        }};
        let batchTabs = {{}}; // none in reForge
        let tab = {tab}, folder = 0;
        globalThis.get_tab_index = name => name === 'mode_img2img' ? tab : folder;
        {SCRIPT.read_text()}
        const names = {json.dumps(names)}, calls = {{ {functions} }}, results = [];
        const outputs = {json.dumps(REDRAWN)};
        const values = Object.fromEntries(names.map(name => [name, `value of ${{name}}`]));
        values.shown = '';
        let note = ''; // the first output
        const answerOf = async name => {{
            const answer = calls[name](...names.map(name => values[name]), note);
            const done = await Promise.race([answer, later().then(() => 'waits')]);
            if (Array.isArray(done) && name !== 'before') note = done[0];
            return done;
        }};
        const call = async name => {{
            const answer = await answerOf(name);
            return Array.isArray(answer) && name !== 'before' ? answer[0] : answer;
        }};
        const segment = async () => {{
            values.shown = (await call('before'))[names.indexOf('asked')];
            return call('after');
        }};
        (async () => {{
            {steps}
            console.log(JSON.stringify(results));
            process.exit(0);
        }})();
    """
    done = subprocess.run([NODE, "-e", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("tab", range(7))
@pytest.mark.parametrize("kind", [A1111Page, ForgePage])
def test_only_the_images_of_the_open_tab_are_sent(kind, tab):
    (values,) = run(f"folder = {int(tab == 6)}; results.push(await call('before'));", tab=min(tab, 5), kind=kind)

    page = make_page(kind)
    sent = dict(zip(names_of(page), values, strict=True))
    assert (sent["tab"], sent["prompt"], sent["asked"]) == (tab, "value of prompt", "1")
    images = [*(name for names in page.tabs for name in names), *BATCH]
    expected = [[BATCH[0]], [BATCH[1]]][tab - 5] if tab >= 5 else list(page.tabs[tab])
    assert [name for name in images if sent[name] is not None] == expected


def test_where_batch_has_no_tabs_its_folder_is_open():
    steps = "batchTabs = null; get_tab_index = name => { if (name !== 'mode_img2img') throw name; return 5; };"

    (values,) = run(f"{steps} results.push(await call('before'));")

    sent = dict(zip(names_of(make_page()), values, strict=True))
    assert (sent["tab"], sent[BATCH[0]], sent[BATCH[1]]) == (6, None, f"value of {BATCH[1]}")


def test_before_anything_was_segmented_nothing_is_out_of_date_or_drawn():
    steps = "values.prompt = 'b'; results.push(await call('changed'), await call('slid'), asked.length);"
    assert run(steps) == ["", "", 0]


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
    steps = f"await segment(); {change}; results.push(await call('changed'), await call('slid'), asked.length);"

    marked, slid, count = run(steps)

    assert f"belongs to {said}. Press Segment." in marked
    assert (slid, count) == (marked, 0)


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
    assert run(f"await segment(); {change}; results.push(await call('changed'));") == [""]


def test_a_slider_asks_for_a_drawing_and_fills_the_outputs_that_it_changes():
    steps = """
        await segment();
        values.threshold = 0.3;
        const answer = calls.grown(...names.map(name => values[name]), '');
        await drawn(200, { status: 'new', overlay: 'image' });
        results.push(asked, await answer);
    """
    (((address, body),), (note, *redrawn)) = run(steps)

    assert address == "/sub/ldznet/draw"
    assert (body["view"], body["kind"], body["values"]["threshold"]) == ("value of view", "all", 0.3)
    assert set(body["values"]) == set(MASK_CONTROLS)
    filled = {name: value for name, value in zip(REDRAWN, redrawn, strict=True) if value != AS_IT_IS}
    assert (note, filled) == ("", {"status": "new", "overlay": "image"})


@pytest.mark.parametrize(
    ("status", "content", "text"),
    [
        (422, {"detail": "<What> is shown is no longer cached."}, "&lt;What> is shown is no longer cached."),
        (502, {}, "The program did not draw the mask: it answered with the status 502."),
    ],
)
def test_a_drawing_that_fails_is_an_error_in_the_status(status, content, text):
    steps = f"""
        await segment();
        const answer = calls.slid(...names.map(name => values[name]), '');
        await drawn({status}, {json.dumps(content)});
        results.push((await answer)[1 + outputs.indexOf('status')]);
    """
    assert run(steps) == [f'<div class="ldznet-error">{text}</div>']


@pytest.mark.parametrize(("version", "expected"), [("3.41.2", ["waits", None, "waits"]), ("4.40.0", [None] * 3)])
def test_gradio_3_gets_no_answer_that_changes_nothing_since_it_would_report_every_canvas_as_changed(
    version, expected
):
    steps = f"""
        await segment();
        globalThis.gradio_config = {{ version: '{version}' }};
        const changed = async () => await answerOf('changed') === 'waits' ? 'waits' : null;
        results.push(await changed());
        values.prompt = 'b';
        results.push(await changed(), await changed());
    """
    assert run(steps) == expected


def test_strokes_on_a_canvas_are_another_picture():
    steps = """
        values.img2maskimg = { image: 'a', mask: 'b' };
        await segment();
        values.img2maskimg = { image: 'a', mask: 'b' };
        results.push(await call('changed'));
        values.img2maskimg = { image: 'a', mask: 'c' };
        results.push(await call('changed'));
    """
    same, other = run(steps, tab=2)

    assert same == ""
    assert "another picture" in other


def test_the_old_words_bring_the_result_back_with_the_slider_as_it_is_now():
    steps = """
        await segment();
        values.prompt = 'b';
        await call('changed'); await call('slid');
        values.prompt = 'value of prompt';
        await call('changed');
        results.push(ldznet.note, ...asked.map(([, body]) => body.kind));
    """
    assert run(steps) == ["", "mask"]


def test_one_drawing_at_a_time_and_then_only_the_newest():
    steps = """
        await segment();
        for (const [name, value] of [['slid', 1], ['slid', 2], ['grown', 3], ['slid', 4]]) {
            values.threshold = value;
            await call(name);
        }
        const draws = () => asked.map(([, { kind, values }]) => [kind, values.threshold]);
        results.push(draws());
        await drawn(200, {});
        results.push(draws());
        await drawn(200, {});
        results.push(draws().length);
    """
    first, second, count = run(steps)

    assert first == [["mask", 1]]
    assert second == [["mask", 1], ["all", 4]]
    assert count == 2


def test_words_that_change_while_something_is_drawn_stay_marked():
    steps = """
        await segment();
        const slid = calls.slid(...names.map(name => values[name]), '');
        values.prompt = 'b';
        await call('changed');
        await drawn(200, { status: 'new' });
        results.push((await slid)[0]);
    """
    (marked,) = run(steps)

    assert "belongs to other words" in marked


@pytest.mark.parametrize(("succeeds", "expected"), [(True, AS_IT_IS), (False, "old")])
def test_what_was_drawn_of_a_result_does_not_replace_a_newer_one(succeeds, expected):
    steps = f"""
        await segment();
        const slid = calls.slid(...names.map(name => values[name]), '');
        const number = (await call('before'))[names.indexOf('asked')];
        await drawn(200, {{ status: 'old' }});
        if ({json.dumps(succeeds)}) values.shown = number;
        call('after');
        results.push((await slid)[1 + outputs.indexOf('status')]);
    """
    assert run(steps) == [expected]


def test_words_that_change_while_segment_runs_mark_its_result():
    steps = """
        values.shown = (await call('before'))[names.indexOf('asked')];
        values.prompt = 'b';
        await call('changed');
        results.push(await call('after'));
    """
    (marked,) = run(steps)

    assert "belongs to other words" in marked


def test_a_segment_that_failed_leaves_what_is_shown_as_it_was():
    steps = """
        await segment();
        values.prompt = 'b';
        await call('before');
        results.push(await call('after'));
    """
    (marked,) = run(steps)

    assert "belongs to other words" in marked


def test_a_slider_that_moves_while_segment_runs_is_drawn_afterwards():
    steps = """
        await segment();
        values.shown = (await call('before'))[names.indexOf('asked')];
        await call('slid');
        results.push(asked.length);
        call('after');
        await later();
        results.push(...asked.map(([, body]) => body.kind));
    """
    assert run(steps) == [0, "mask"]
