// Keys for the whole panel, wherever in it the focus is: Alt and an arrow move the threshold.
// Enter in a field of words is Segment by the fields themselves; what the webui has keys for stays the webui's.
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
