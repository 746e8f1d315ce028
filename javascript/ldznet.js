// What the panel does in the browser. Names of components, and what belongs together, come from Python
// (ldznet/webui/panel/wiring.py): `names` are those of `values`, and `page` has
//   pictures  the components that say which picture is shown, for each tab of the page
//   large     those of them that are sent only if their tab is open
//   parts     on what else a result depends: {what to call it: names}
//   outdated  the sentence that says what has changed
//   mask      the controls of the mask
//   redrawn   what another mask of the same result changes, the outputs of an event after the sentence
const ldznet = {
    requests: new Map(), // what each press of Segment has asked for, by its number
    count: 0, // of these, and of drawings
    shown: null, // what the result on the page was asked with
    note: '', // the sentence that says what has changed since; empty where nothing has
    segmenting: null, // while Segment runs, a promise
    endSegment: () => {}, // fulfils it
    drawing: null, // while the server draws, a promise
    newest: 0, // the number of the last event that wanted a drawing
    pending: '', // what is to be drawn next: "mask", or "all" with the masks of other thresholds
};
const LDZNET_PATIENCE = 30000; // ms after which a drawing is given up
const LDZNET_AS_IT_IS = { __type__: 'update' }; // gradio's word for an output that stays

// The open tab; Batch has two of its own, of which the second, a folder, follows all others. 0 without tabs.
function ldznetOpenTab(page) {
    if (page.pictures.length === 1) return 0;
    const tab = get_tab_index('mode_img2img'), batch = page.pictures.length - 2;
    if (tab !== batch) return tab;
    // reForge has no tabs in Batch, only the folder.
    return batch + (document.getElementById('img2img_batch_source') ? get_tab_index('img2img_batch_source') : 1);
}

function ldznetRequest(names, page, values) {
    const valueOf = name => values[names.indexOf(name)];
    const request = { picture: page.pictures[ldznetOpenTab(page)].map(valueOf) };
    for (const [part, of_part] of Object.entries(page.parts)) {
        request[part] = of_part.map(name => typeof valueOf(name) === 'string' ? valueOf(name).trim() : valueOf(name));
    }
    return request;
}

// Texts of several megabytes are compared as they are; objects, such as the image and the strokes of a canvas, by their parts.
function ldznetSame(one, other) {
    if (one === other) return true;
    if (typeof one !== 'object' || typeof other !== 'object' || !one || !other) return (one ?? '') === (other ?? '');
    const keys = new Set([...Object.keys(one), ...Object.keys(other)]);
    return [...keys].every(key => ldznetSame(one[key], other[key]));
}

// Values changed: say whether what is shown belongs to them, and draw it anew if it does. `kind` is what a control of the
// mask asks for, else empty. Returns the sentence, and what is drawn.
function ldznetNotice(names, page, kind, values) {
    if (!ldznet.shown) return ldznetAnswer(names, page, values);
    const now = ldznetRequest(names, page, values), [picture, ...parts] = Object.keys(page.parts);
    const changed = !ldznetSame(now.picture, ldznet.shown.picture) ? picture
        : parts.find(part => !ldznetSame(now[part], ldznet.shown[part]));
    document.documentElement.toggleAttribute('data-ldznet-outdated', Boolean(changed));
    if (kind && ldznet.pending !== 'all') ldznet.pending = kind;
    ldznet.note = changed ? `<div class="ldznet-note">${page.outdated.replace('{}', changed)}</div>` : '';
    if (!ldznet.pending || changed || ldznet.segmenting) return ldznetAnswer(names, page, values);
    return ldznetDraw(names, page, values);
}

// The answer of an event: the sentence, and new values by the names of outputs. Where nothing is new, gradio 3 gets no answer:
// after each it draws the page anew, and every canvas with an image reports a change, without end.
function ldznetAnswer(names, page, values, redrawn = {}) {
    const isNew = ldznet.note !== (values[names.length] ?? '') || Object.keys(redrawn).length;
    if (!isNew && ldznetIsGradio3()) return new Promise(() => {});
    return [ldznet.note, ...page.redrawn.map(name => name in redrawn ? redrawn[name] : LDZNET_AS_IT_IS)];
}

function ldznetIsGradio3() {
    return Boolean(globalThis.gradio_config?.version?.startsWith('3.'));
}

// Draw what is shown with the values of an event. One drawing at a time: events that come meanwhile wait, and of these
// only the newest is drawn.
async function ldznetDraw(names, page, values) {
    const event = ++ldznet.newest, shown = ldznet.shown;
    while (ldznet.drawing) await ldznet.drawing;
    const isOld = event !== ldznet.newest || shown !== ldznet.shown;
    if (isOld || !ldznet.pending || ldznet.segmenting || ldznet.note) return ldznetAnswer(names, page, values);
    ldznet.count++;
    ldznet.drawing = ldznetAsk(names, page, values, ldznet.pending);
    ldznet.pending = '';
    const redrawn = await ldznet.drawing;
    ldznet.drawing = null;
    // Segment was pressed meanwhile: unless it fails, something else is shown when it is done.
    await ldznet.segmenting;
    return ldznetAnswer(names, page, values, shown === ldznet.shown ? redrawn : {});
}

// What the server draws, by the names of outputs; an error in the status where it does not.
async function ldznetAsk(names, page, values, kind) {
    const valueOf = name => values[names.indexOf(name)];
    const body = JSON.stringify({ view: valueOf('view'), kind, values: Object.fromEntries(page.mask.map(name => [name, valueOf(name)])) });
    let why = 'it could not be reached. Look whether it still runs';
    try {
        const answer = await fetch(`${location.pathname.replace(/\/?$/, '/')}ldznet/draw`, {
            method: 'POST', body, headers: { 'Content-Type': 'application/json' }, signal: AbortSignal.timeout(LDZNET_PATIENCE),
        });
        const content = await answer.json().catch(() => ({}));
        if (answer.ok) return content;
        why = typeof content.detail === 'string' ? content.detail : `it answered with the status ${answer.status}`;
    } catch {} // no network, or too late
    const text = document.createElement('div');
    text.textContent = /^[a-z]/.test(why) ? `The program did not draw the mask: ${why}.` : why;
    return { status: `<div class="ldznet-error">${text.innerHTML}</div>` };
}

// The slider of the threshold was moved, so that it is no longer automatic; the value is that of the switch.
function ldznetTakeOver(isAutomatic) {
    return isAutomatic || !ldznetIsGradio3() ? false : new Promise(() => {});
}

// The inputs of Segment, before they are sent. Closed tabs send no image, which may be large; the webui's own
// progress bar, Interrupt and Skip are there until the answer comes.
function ldznetBeforeSegment(names, page, values) {
    const tab = ldznetOpenTab(page), asked = String(++ldznet.count);
    ldznet.requests.set(asked, ldznetRequest(names, page, values));
    ldznetSegmenting(true);
    let task = '';
    if (typeof requestProgress === 'function') {
        task = randomId();
        showSubmitButtons('img2img', false);
        requestProgress(task, gradioApp().getElementById('img2img_gallery_container'), null,
            () => showSubmitButtons('img2img', true));
    }
    const closed = page.large.filter(name => !page.pictures[tab].includes(name));
    const replaced = { task, tab, asked, ...Object.fromEntries(closed.map(name => [name, null])) };
    return names.map((name, place) => name in replaced ? replaced[name] : values[place]);
}

function ldznetAfterSegment(names, page, values) {
    ldznetSegmenting(false);
    const request = ldznet.requests.get(values[names.indexOf('shown')]);
    ldznet.requests.clear();
    if (request) ldznet.shown = request;
    return ldznetNotice(names, page, '', values);
}

function ldznetSegmenting(is) {
    ldznet.endSegment();
    ldznet.segmenting = is ? new Promise(resolve => { ldznet.endSegment = resolve; }) : null;
    document.documentElement.toggleAttribute('data-ldznet-segmenting', is);
}

// After "Send to inpaint": show the tab that was filled, unless the status is an error.
function ldznetAfterSend(names, tab, values) {
    if (!values[names.indexOf('status')].includes('ldznet-error')) switch_to_img2img_tab(tab);
    return [];
}

(() => {
    const PANEL = '[id$="ldznet_segment_enabled"], #ldznet_panel';
    const THRESHOLD = '[id$="ldznet_segment_threshold"] input[type=number], #ldznet_threshold input[type=number]';
    const CLICKED = '[id$="ldznet_segment_clicked"], #ldznet_clicked';
    const STEPS = { ArrowUp: 0.05, ArrowDown: -0.05 };

    function setValue(box, value) {
        box.value = String(value);
        for (const kind of ['input', 'change', 'blur']) box.dispatchEvent(new Event(kind, { bubbles: true }));
    }

    // Keys for the whole panel, wherever in it the focus is: Alt and an arrow move the threshold.
    // Enter in a text field is Segment by the fields themselves; keys of the webui stay the webui's.
    document.addEventListener('keydown', event => {
        const step = STEPS[event.key];
        const panel = event.target.closest?.(PANEL);
        const box = panel?.querySelector(THRESHOLD);
        if (!step || !box || !event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        const moved = Math.min(1, Math.max(0, Number(box.value) + step));
        setValue(box, Math.round(moved * 100) / 100);
    });

    document.addEventListener('click', event => {
        const target = event.target.closest?.('.ldznet-download, .ldznet-figure button');
        if (!target) return;
        const image = target.closest('.ldznet-figure').querySelector('img');
        const isOutdated = document.documentElement.hasAttribute('data-ldznet-outdated');
        if (target.matches('.ldznet-download')) target.href = image.src; // the browser follows it now
        else if (target.matches('.ldznet-open')) open(image);
        else if (target.matches('.ldznet-threshold')) {
            setValue(document.querySelector(THRESHOLD), target.dataset.threshold);
        } else if (!isOutdated && target.matches('.ldznet-object')) choose(`#${target.dataset.number} 0`);
        else if (!isOutdated && target.matches('.ldznet-objects') && event.detail) { // not the Enter key, without a place
            const box = image.getBoundingClientRect();
            choose([(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].join(' '));
        }
    });

    // The number makes the same click twice two different texts.
    function choose(what) {
        setValue(document.querySelector(CLICKED).querySelector('textarea, input'), `${what} ${++ldznet.count}`);
    }

    // An image at its full size, until a click or Esc.
    function open(image) {
        const window = document.createElement('dialog');
        window.className = 'ldznet-window';
        window.append(Object.assign(new Image(), { src: image.src, alt: image.alt }));
        window.addEventListener('click', () => window.close());
        window.addEventListener('close', () => window.remove());
        document.body.append(window);
        window.showModal();
    }
})();
