// Keys for the whole panel, wherever in it the focus is: Alt and an arrow move the threshold.
// Enter in a text field is Segment by the fields themselves; keys of the webui stay the webui's.
(() => {
    const PANEL = '[id$="ldznet_segment_enabled"], #ldznet_panel';
    const THRESHOLD = '[id$="ldznet_segment_threshold"] input[type=number], #ldznet_threshold input[type=number]';
    const STEPS = { ArrowUp: 0.05, ArrowDown: -0.05 };

    document.addEventListener('keydown', event => {
        const step = STEPS[event.key];
        const panel = event.target.closest?.(PANEL);
        const box = panel?.querySelector(THRESHOLD);
        if (!step || !box || !event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        const moved = Math.min(1, Math.max(0, Number(box.value) + step));
        box.value = String(Math.round(moved * 100) / 100);
        for (const kind of ['input', 'change', 'blur']) box.dispatchEvent(new Event(kind, { bubbles: true }));
    });
})();

// The inputs of Segment, before they are sent from the webui's page. `names` are the names of `values`, and `tabs` the
// names of each tab's images; both come from Python (ldznet/webui/page/a1111.py). Closed tabs send no image, which
// may be large; the webui's own progress bar, Interrupt and Skip are there until the answer comes.
function ldznetBeforeSegment(names, tabs, values) {
    const tab = get_tab_index('mode_img2img');
    const open = tabs[tab] || [];
    const closed = tabs.flat().filter(name => !open.includes(name));
    let task = '';
    if (typeof requestProgress === 'function') {
        task = randomId();
        showSubmitButtons('img2img', false);
        requestProgress(task, gradioApp().getElementById('img2img_gallery_container'), null,
            () => showSubmitButtons('img2img', true));
    }
    const replaced = { task, tab, ...Object.fromEntries(closed.map(name => [name, null])) };
    return names.map((name, place) => name in replaced ? replaced[name] : values[place]);
}

// After "Send to inpaint": show the tab that was filled, unless the status is an error.
function ldznetAfterSend(names, tab, values) {
    if (!values[names.indexOf('status')].includes('ldznet-error')) switch_to_img2img_tab(tab);
    return [];
}
