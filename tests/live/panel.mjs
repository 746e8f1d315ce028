// node panel.mjs: drives the panel in a headless Chromium as a user would; prints what it has seen as JSON: for each
// part, each with a page of its own, what it has seen or why it failed. PARTS: those to run, all by default.
// URL, SCENES (comma-separated files), PHRASE, PHRASES (several), FIRST_THRESHOLD, THRESHOLD (a lower one),
// WIDTH, HEIGHT (the scenes'), LOG (the webui's), SHOTS (a folder for screenshots), CHROMIUM, PLAYWRIGHT (its index.mjs),
// HOST (a1111, forge, neo or reforge).
// Nothing waits for a time: what has to come is waited for, however busy the machine is.
import { readFileSync } from 'node:fs';
import { dirname } from 'node:path';
const { chromium } = await import(process.env.PLAYWRIGHT || 'playwright-core');
const { URL: address, PHRASE, SHOTS } = process.env;
const scenes = process.env.SCENES.split(',');
const ours = name => `#script_ldznet_segment_${name}`;
const isForge = ['forge', 'neo'].includes(process.env.HOST); // canvases instead of images, and gradio 4
let seen, page, finished; // of the part that runs; what a run of img2img is waited for with
const sockets = new Set(); // that the page has open
const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
  '--disable-background-networking', '--disable-component-update',
  // The page asks servers of others for fonts and a script: without a network that takes minutes.
  `--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE ${new URL(address).hostname}`];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || '/usr/bin/chromium', args: flags });
const PATIENCE = 240000;

async function open(theme = 'light', size = { width: 1400, height: 1420 }) {
  page = await browser.newPage({ viewport: size });
  page.setDefaultTimeout(PATIENCE);
  page.on('pageerror', error => {
    // Forge's page, where it is slow: the server names a function of a script that has not come yet (ui_extra_networks.py:807).
    if (!isForge || !error.message.includes('setupAllResizeHandles')) seen.errors.push(error.message);
  });
  page.on('websocket', socket => { // of gradio's queue
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('framereceived', ({ payload }) => {
      if (finished && String(payload).includes('process_completed') && String(payload).includes("class='performance'")) finished();
    });
  });
  await page.goto(`${address}/?__theme=${theme}`, { waitUntil: 'load' });
  for (let isOpen = false, tries = 3; !isOpen; tries--) {
    await page.waitForFunction(() => typeof switch_to_img2img === 'function' && gradioApp().querySelector('#img2img_generate')
      && gradioApp().querySelector('#mode_img2img button')); // which Neo shows later
    await page.waitForTimeout(2000);
    isOpen = await page.evaluate(() => switch_to_img2img()).then(() => true, error => {
      if (!tries) throw error; // Neo's page at times loads itself a second time
    });
  }
  await page.waitForSelector('#img2img_generate', { state: 'visible' });
  for (const [name, value] of [['width', process.env.WIDTH], ['height', process.env.HEIGHT], ['steps', 3], ['denoising_strength', 0.9]]) {
    await setNumber(`#img2img_${name}`, value);
  }
  await page.locator('#img2img_prompt textarea').fill('a green star');
}
// Close the page once nothing that it has asked for is open: gradio 3 keeps the task of an event whose page has gone for
// ever, and Reload UI waits for all tasks.
async function leave() {
  for (let waited = 0; sockets.size && waited < 60; waited++) await page.waitForTimeout(500);
  await page.close();
  sockets.clear();
}
async function noMaskBlur() {
  await page.locator(`${ours('mask_blur_of_tab')} input`).uncheck();
  await page.waitForSelector(`${ours('mask_blur')} input[type=number]`, { state: 'visible' });
  await setNumber(ours('mask_blur'), 0);
}

async function setNumber(id, value) {
  const box = page.locator(`${id} input[type=number]`);
  await box.fill(String(value));
  await box.blur();
}
// The panel, open, with a scene in the tab img2img.
async function openPanel(scene = scenes[0], ...how) {
  await open(...how);
  await upload('#img2img_image', scene);
  await page.locator(`${ours('enabled')} > .label-wrap`).first().click();
  await page.waitForSelector(ours('segment'), { state: 'visible' });
}
async function openAdvanced(part) {
  await page.locator(`${ours('advanced')} > .label-wrap`).click();
  await page.locator(`${ours(`advanced_${part}`)} > .label-wrap`).click();
}
const write = (name, text) => page.locator(`${ours(name)} textarea`).fill(text);
const shot = async (name, part) => {
  if (!SHOTS) return;
  await settled();
  if (part) await page.locator(part).screenshot({ path: `${SHOTS}/${name}.png` });
  else await page.screenshot({ path: `${SHOTS}/${name}.png` });
};
// The whole page is the picture: tabs and result at the top, the panel below.
const top = () => page.evaluate(() => scrollTo(0, 0));
const upload = async (id, file) => {
  await page.locator(`${id} input[type=file]`).setInputFiles(file);
  await page.waitForSelector(`${id} img[src]`);
};
// A canvas of Forge takes another file at once, an image of gradio only when it is empty.
const emptied = id => isForge || page.locator(`${id} button`).last().click();
const source = id => page.locator(`${id} img`).first().getAttribute('src').catch(() => null);
const pixels = (address, channels = 3) => page.evaluate(async ([address, channels]) => {
  const picture = new Image();
  picture.src = address;
  await picture.decode();
  const canvas = Object.assign(document.createElement('canvas'), { width: picture.width, height: picture.height });
  const context = canvas.getContext('2d');
  context.drawImage(picture, 0, 0);
  const { data } = context.getImageData(0, 0, picture.width, picture.height);
  const kept = [];
  for (let at = 0; at < data.length; at += 4) for (let c = 0; c < channels; c++) kept.push(data[at + c]);
  return { width: picture.width, height: picture.height, data: kept };
}, [address, channels]);
const share = async id => {
  const { data } = await pixels(await source(id), 1);
  return data.filter(level => level > 127).length / data.length;
};
const status = async () => (await page.locator(ours('status')).last().innerText()).trim();
const runLog = async () => (await page.locator('#html_log_img2img').last().innerText()).trim();
async function changes(read, before, limit = 60000) {
  const start = Date.now();
  while (Date.now() - start < limit) {
    const now = await read();
    if (now && now !== before) return now;
    await page.waitForTimeout(50);
  }
  throw new Error(`nothing changed within ${limit} ms: ${String(before).slice(0, 80)}`);
}
async function choose(name, option) {
  const box = page.locator(`${ours(name)} input`);
  await box.click();
  await box.fill(option);
  await page.locator(`${ours(name)} ul.options li`).filter({ hasText: option }).first().click();
  await box.blur();
}
// What was asked of the server is there: nothing is segmented, drawn, or waits to be drawn.
async function settled() {
  await page.evaluate(() => new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve))));
  await page.waitForFunction(() => !ldznet.segmenting && !ldznet.drawing && (!ldznet.pending || !ldznet.shown
    || document.documentElement.hasAttribute('data-ldznet-outdated')));
  await page.evaluate(() => new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve))));
}
async function pressed(name = 'segment') {
  const before = await page.evaluate(() => ldznet.count);
  await page.locator(ours(name)).click();
  await page.waitForFunction(before => ldznet.count > before && !ldznet.segmenting, before);
  await settled();
}
async function segmented() {
  await pressed();
  return pixels(await source(ours('mask_picture')), 1);
}
async function slid(name, value) { // and drawn
  await setNumber(ours(name), value);
  await settled();
}
const note = async () => (await page.locator(ours('outdated')).last().innerText()).trim();
const places = names => page.evaluate(ids => Object.fromEntries(ids.map(([name, id]) => {
  const box = document.querySelector(id).getBoundingClientRect();
  return [name, [box.x, box.y + scrollY, box.width, box.height].map(Math.round)];
})), names.map(name => [name, ours(name)]));
// A stroke from one point to another, given as parts of the picture's sides.
async function stroke(id, from, to) {
  await page.locator(id).scrollIntoViewIfNeeded();
  const canvas = page.locator(`${id} canvas`).first();
  // The webui fits a canvas that is wider than its column once the mouse moves over it.
  let box = await canvas.boundingBox(), last;
  await page.mouse.move(box.x + 30, box.y + box.height / 2, { steps: 3 });
  do {
    last = JSON.stringify(box);
    await page.waitForTimeout(500);
    box = await canvas.boundingBox();
  } while (JSON.stringify(box) !== last);
  const drawn = () => page.locator(`${id} canvas:not([key=interface])`).evaluateAll(
    canvases => canvases.map(one => one.toDataURL()).join());
  const at = ([x, y]) => [box.x + x * box.width, box.y + y * box.height];
  const before = await drawn();
  await page.mouse.move(...at(from));
  await page.mouse.down();
  await page.mouse.move(...at(to), { steps: 12 });
  await page.mouse.up();
  await changes(drawn, before);
  await page.waitForTimeout(1500); // for the page to take it over, which shows nothing
}
async function middle() { // of the mask, where it lies in the picture of objects
  const mask = await pixels(await source(ours('mask_picture')), 1);
  const inside = [...mask.data.keys()].filter(at => mask.data[at] > 127);
  const mean = values => values.reduce((sum, value) => sum + value, 0) / values.length;
  const scale = await page.locator(`${ours('objects_picture')} img`).evaluate(
    image => Math.min(image.clientWidth / image.naturalWidth, image.clientHeight / image.naturalHeight));
  return { x: scale * mean(inside.map(at => at % mask.width + 0.5)),
    y: scale * mean(inside.map(at => Math.floor(at / mask.width) + 0.5)) };
}
const share_of = mask => mask.data.filter(level => level > 127).length / mask.data.length;
async function generate() {
  const before = await runLog();
  const done = new Promise((resolve, reject) => {
    finished = resolve;
    setTimeout(() => reject(new Error('the run does not end')), PATIENCE).unref(); // nothing waits for it at the end
  });
  done.catch(() => null); // gradio 4 has no socket: there the text below the results says how long the run took
  await page.locator('#img2img_generate').click();
  await (isForge ? changes(runLog, before, PATIENCE) : done);
  finished = null;
  await page.waitForFunction(() => gradioApp().querySelector('#img2img_interrupt').style.display !== 'block');
  await page.waitForTimeout(1500); // the gallery shows its images one after the other
  const addresses = await page.locator('#img2img_gallery .thumbnails img, #img2img_gallery .grid-wrap img').evaluateAll(
    images => images.map(image => image.src));
  return { log: await runLog(), pictures: [...new Set(addresses)] };
}
// How much two pictures differ inside and outside of a mask: [largest outside, mean inside].
function compare(one, other, mask) {
  let outside = 0, inside = 0, count = 0;
  mask.data.forEach((level, at) => {
    const apart = Math.max(...[0, 1, 2].map(c => Math.abs(one.data[3 * at + c] - other.data[3 * at + c])));
    if (level === 0) outside = Math.max(outside, apart);
    else if (level > 127) { inside += apart; count++; }
  });
  return [outside, inside / Math.max(count, 1)];
}
const logged = text => process.env.LOG ? readFileSync(process.env.LOG, 'utf8').split(text).length - 1 : 0;
const dataUrl = file => 'data:image/png;base64,' + readFileSync(file).toString('base64');

const parts = {
  async segment() {
    await openPanel();
    await shot('panel-1-open');
    await pressed();
    seen.withoutPrompt = await status();
    await write('prompt', PHRASE);
    await slid('threshold', process.env.FIRST_THRESHOLD);
    await segmented();
    seen.status = await status();
    seen.share = await share(ours('mask_picture'));
    await top();
    await shot('panel-2-segment');
    await slid('threshold', process.env.THRESHOLD);
    seen.shareLower = await share(ours('mask_picture'));
    await shot('panel-3-threshold', ours('enabled'));
    seen.downloads = [];
    for (const name of ['mask_picture', 'overlay']) {
      const [file] = await Promise.all([page.waitForEvent('download'), page.locator(`${ours(name)} .ldznet-download`).first().click()]);
      const kind = name === 'overlay' ? 'jpeg' : 'png';
      const address = `data:image/${kind};base64,${readFileSync(await file.path()).toString('base64')}`;
      seen.downloads.push([file.suggestedFilename(), address === await source(ours(name))]);
    }
    seen.opened = [];
    for (const name of ['overlay', 'mask_picture', 'heat']) {
      await page.locator(`${ours(name)} .ldznet-open`).first().click();
      seen.opened.push(await page.locator('dialog.ldznet-window img').evaluate(image => [image.width, image.height]));
      await page.keyboard.press('Escape');
      await page.locator('dialog.ldznet-window').waitFor({ state: 'detached' });
    }
  },

  async generate() {
    await openPanel();
    await openAdvanced('inpainting');
    await noMaskBlur();
    await write('prompt', PHRASE);
    await slid('threshold', process.env.THRESHOLD);
    const mask = await segmented(), scene = await pixels(dataUrl(scenes[0]));
    const made = await generate(); // the script makes the mask
    seen.log = made.log;
    seen.img2img = compare(await pixels(made.pictures[0]), scene, mask);
    await top();
    await shot('panel-4-generate');

    const ownTab = await source('#img2img_image');
    await pressed('send');
    await page.waitForSelector('#img_inpaint_mask img', { state: 'visible' });
    await page.waitForTimeout(1000);
    seen.tab = await page.evaluate(() => get_tab_index('mode_img2img'));
    seen.size = [await page.locator('#img2img_width input[type=number]').inputValue(),
      await page.locator('#img2img_height input[type=number]').inputValue()];
    seen.shares = [share_of(mask), await share('#img_inpaint_mask')];
    seen.ownTabKept = ownTab !== null && (await source('#img2img_image')) === ownTab;
    await top();
    await shot('panel-5-send');

    // Sending has switched the panel off: only what lies there counts.
    seen.isOnAfterSend = await page.locator(`${ours('enabled')}-checkbox input`).isChecked();
    await setNumber('#img2img_mask_blur', 0);
    const sent = await generate();
    seen.inpaint = compare(await pixels(sent.pictures[0]), scene, mask);
    await top();
    await shot('panel-6-inpaint');

    // Another mask in its place, the left third of the picture: Generate paints that.
    const other = await page.evaluate(([width, height]) => {
      const canvas = Object.assign(document.createElement('canvas'), { width, height }), context = canvas.getContext('2d');
      for (const [color, right] of [['black', width], ['white', width / 3]]) {
        context.fillStyle = color;
        context.fillRect(0, 0, right, height);
      }
      return canvas.toDataURL('image/png');
    }, [mask.width, mask.height]);
    const clear = ['[aria-label=Clear]', '[title=Clear]', '[aria-label="Remove Image"]'];
    await page.locator(clear.map(one => `#img_inpaint_mask button${one}`).join()).last().click();
    await upload('#img_inpaint_mask', {
      name: 'third.png', mimeType: 'image/png', buffer: Buffer.from(other.split(',')[1], 'base64'),
    });
    await page.waitForTimeout(1000);
    const repainted = await generate();
    seen.replaced = compare(await pixels(repainted.pictures[0]), scene, await pixels(other, 1));
    await top();
    await shot('panel-7-replaced');
  },

  // The other tabs: Segment sees their picture, Generate paints in it.
  async sketch() { await otherTab(1, '#img2img_sketch', scenes[1]); },
  async inpaint() { await otherTab(2, '#img2maskimg', scenes[2]); },
  async inpaint_sketch() { await otherTab(3, '#inpaint_sketch', scenes[0]); },

  // What is painted is combined with the words.
  async brush() {
    await otherTab(2, '#img2maskimg', scenes[2]);
    await openAdvanced('mask');
    await choose('brush', 'add');
    await stroke('#img2maskimg', [0.05, 0.45], [0.9, 0.45]);
    await page.waitForFunction(() => document.documentElement.hasAttribute('data-ldznet-outdated'));
    seen.strokes = await note();
    seen.brush = {};
    seen.sentences = {};
    await pressed();
    for (const mode of ['add', 'replace', 'subtract', 'intersect']) {
      await choose('brush', mode);
      await settled();
      seen.brush[mode] = await share(ours('mask_picture'));
      seen.sentences[mode] = (await status()).split('\n')[0];
    }
    await choose('brush', 'add');
    await settled();
    const added = await pixels(await source(ours('mask_picture')), 1);
    await shot('panel-b-brush');
    const painted = await generate();
    seen.brushed = compare(await pixels(painted.pictures[0]), await pixels(dataUrl(scenes[2])), added);
  },

  async strokes() { // of Inpaint sketch
    await otherTab(3, '#inpaint_sketch', scenes[0]);
    await openAdvanced('mask');
    await stroke('#inpaint_sketch', [0.1, 0.1], [0.5, 0.1]);
    await choose('brush', 'intersect'); // what is painted is all that can be left
    await setNumber(ours('threshold'), 0);
    const preview = await segmented();
    await page.locator(`${ours('append')} input`).check(); // in a part that `otherTab` has opened
    const run = await generate();
    seen.log = run.log;
    seen.masks = [preview, await pixels(run.pictures[1], 1)].map(
      mask => ({ painted: share_of(mask), sum: mask.data.reduce((sum, level) => sum + level, 0) }));
  },

  async several() {
    await openPanel();
    await write('prompt', process.env.PHRASES);
    await setNumber(ours('threshold'), process.env.THRESHOLD);
    await pressed();
    await page.waitForSelector(`${ours('colors')} img`, { state: 'visible' });
    seen.legend = await page.locator(`${ours('colors')} .ldznet-legend li`).allInnerTexts();
    await top();
    await shot('panel-7-several');
    await shot('panel-7-several-part', ours('enabled'));
  },

  // Another picture, other words, another method: marked at once, and no slider moves it.
  async outdated() {
    await openPanel();
    await write('prompt', PHRASE);
    await slid('threshold', process.env.FIRST_THRESHOLD);
    await segmented();
    const shown = await source(ours('mask_picture'));
    const notes = {}, unmoved = async () => {
      await slid('threshold', process.env.THRESHOLD);
      const is = shown === await source(ours('mask_picture'));
      await slid('threshold', process.env.FIRST_THRESHOLD);
      return is;
    };
    await write('prompt', 'another thing');
    await settled();
    notes.words = [await note(), await unmoved()];
    await shot('panel-c-outdated', ours('enabled'));
    await write('prompt', PHRASE);
    await settled();
    notes.back = [await note(), true];
    await choose('method', 'attention');
    await settled();
    notes.method = [await note(), await unmoved()];
    await choose('method', 'auto');
    await page.evaluate(() => switch_to_img2img_tab(4)); // an empty one
    await page.waitForFunction(() => document.documentElement.hasAttribute('data-ldznet-outdated'));
    notes.tab = [await note(), await unmoved()];
    await page.evaluate(() => switch_to_img2img_tab(0));
    await page.waitForFunction(() => !document.documentElement.hasAttribute('data-ldznet-outdated'));
    await emptied('#img2img_image');
    await upload('#img2img_image', scenes[1]);
    await page.waitForFunction(() => document.documentElement.hasAttribute('data-ldznet-outdated'));
    notes.picture = [await note(), await unmoved()];
    await pressed();
    notes.again = [await note(), shown !== await source(ours('mask_picture'))];
    seen.notes = notes;
  },

  // While a slider is dragged only the newest value is drawn, and it is the one on which the slider stops.
  async dragged() {
    await openPanel();
    await write('prompt', PHRASE);
    await slid('threshold', 0.3);
    await segmented();
    const before = await page.evaluate(() => ldznet.count); // every drawing that is asked for has a number
    const range = page.locator(`${ours('threshold')} input[type=range]`);
    await range.scrollIntoViewIfNeeded(); // the mouse reaches only what is on the screen
    const box = await range.boundingBox();
    const at = part => [box.x + part * box.width, box.y + box.height / 2];
    await page.mouse.move(...at(0.3));
    await page.mouse.down();
    for (let step = 0; step <= 40; step++) await page.mouse.move(...at(0.3 - 0.2 * step / 40));
    await page.mouse.up();
    await settled();
    seen.drawings = await page.evaluate(() => ldznet.count) - before;
    const value = await page.locator(`${ours('threshold')} input[type=number]`).inputValue();
    const dragged = await source(ours('mask_picture'));
    await slid('threshold', 0.9);
    await slid('threshold', value);
    seen.isNewest = dragged === await source(ours('mask_picture'));
  },

  // Nothing moves while a slider does; labels and legends; a narrow page.
  async calm() {
    await openPanel();
    await write('prompt', process.env.PHRASES);
    await setNumber(ours('threshold'), 0.02);
    const names = ['prompt', 'segment', 'send', 'threshold', 'status', 'overlay', 'mask_picture', 'heat', 'colors', 'objects_picture', 'advanced'];
    const early = (await places(['segment'])).segment;
    await pressed();
    seen.places = [];
    for (const level of [0.02, 0.2, 0.5, 1]) {
      await slid('threshold', level);
      seen.places.push(await places(names));
    }
    await write('prompt', Array.from({ length: 10 }, (_, at) => `${PHRASE} with a long name, number ${at + 1}`).join(' | '));
    await slid('threshold', 0.05);
    await pressed();
    const late = await places(['segment', 'send']);
    seen.heights = [early[3], late.segment[3], late.send[3]];
    seen.legend = await page.locator(`${ours('colors')} .ldznet-legend li`).evaluateAll(entries => entries.map(entry => ({
      text: entry.innerText, size: parseFloat(getComputedStyle(entry).fontSize), isCut: entry.scrollWidth > entry.clientWidth + 1 })));
    // What lies over an image, and what can be scrolled though there is nothing more.
    seen.over = await page.locator(`${ours('preview')} img`).evaluateAll(images => images.map(image => {
      image.scrollIntoView({ block: 'center' });
      const box = image.getBoundingClientRect();
      return [[0.02, 0.02], [0.98, 0.02], [0.5, 0.5], [0.02, 0.98]].map(([x, y]) =>
        document.elementFromPoint(box.x + x * box.width, box.y + y * box.height) === image);
    }));
    seen.wide = await page.locator(`${ours('overlay')} img`).first().evaluate(
      image => image.clientWidth / document.querySelector('#script_ldznet_segment_preview').clientWidth);
    seen.minus = await page.locator(ours('enabled')).evaluate(panel => panel.innerText.includes('-1'));
    await shot('panel-d-ten', ours('enabled'));
    await page.setViewportSize({ width: 390, height: 844 });
    await page.waitForTimeout(1000);
    seen.narrow = await page.locator(`${ours('preview')} figcaption, ${ours('status')} div`).evaluateAll(
      elements => elements.filter(one => one.getBoundingClientRect().right > innerWidth + 1).map(one => one.innerText));
    await shot('panel-e-narrow', ours('enabled'));
  },

  // A threshold of those to choose from, clicked twice.
  async thresholds() {
    await openPanel();
    await write('prompt', PHRASE);
    await setNumber(ours('threshold'), 0.05);
    await segmented();
    const level = () => page.locator(`${ours('threshold')} input[type=number]`).inputValue();
    seen.clickedTwice = [];
    for (let time = 0; time < 2; time++) {
      await page.locator(`${ours('choices')} .ldznet-threshold`).first().click();
      await settled();
      seen.clickedTwice.push(await level());
      await slid('threshold', 0.05);
    }
    // Keys.
    await slid('threshold', 0.3);
    await page.locator(`${ours('prompt')} textarea`).focus();
    await page.keyboard.press('Alt+ArrowUp');
    await settled();
    seen.keys = await level();
  },

  // Numbers of objects: in the same picture, in another one, and after Segment there.
  async objects() {
    await openPanel();
    await openAdvanced('mask');
    await write('prompt', PHRASE);
    await setNumber(ours('threshold'), 0.05);
    await segmented();
    const numbers = page.locator(`${ours('objects')} textarea, ${ours('objects')} input`).first();
    await numbers.fill('1');
    await settled();
    const middleOfOne = await middle();
    seen.clicked = [];
    for (let time = 0; time < 2; time++) {
      const before = await numbers.inputValue();
      await page.locator(`${ours('objects_picture')} img`).first().click({ position: middleOfOne });
      await page.waitForFunction(([id, before]) => document.querySelector(id).value !== before,
        [`${ours('objects')} textarea, ${ours('objects')} input`, before]);
      seen.clicked.push(await numbers.inputValue());
    }
    await page.locator(`${ours('objects_picture')} .ldznet-object`).first().click();
    await page.waitForFunction(id => document.querySelector(id).value === '', `${ours('objects')} textarea, ${ours('objects')} input`);
    await numbers.fill('1');
    await settled();
    seen.numbers = [(await generate()).log];
    await emptied('#img2img_image');
    await upload('#img2img_image', scenes[1]);
    await page.waitForFunction(() => document.documentElement.hasAttribute('data-ldznet-outdated'));
    seen.numbers.push((await generate()).log);
    await segmented();
    seen.numbers.push(await numbers.inputValue());
  },

  // Nothing found: the run stops, and says why.
  async nothing() {
    await openPanel();
    await write('prompt', PHRASE);
    await setNumber(ours('threshold'), 1);
    await setNumber(ours('grow'), -500);
    seen.log = (await generate()).log;
    await top();
    await shot('panel-8-nothing');
  },

  // Scripts of the menu that count on results, where nothing is found and where there is no prompt.
  async scripts() {
    await openPanel();
    await setNumber(ours('threshold'), 1);
    await setNumber(ours('grow'), -500);
    const scene = await pixels(dataUrl(scenes[0])), everywhere = { data: scene.data.filter((_, at) => at % 3 === 0).fill(255) };
    const menu = page.locator('#img2img_script_container #script_list input');
    seen.runs = [];
    for (const [script, prompt] of [['SD upscale', PHRASE], ['SD upscale', ''], ['Loopback', PHRASE]]) {
      await write('prompt', prompt);
      await menu.click();
      await menu.fill(script);
      await page.locator('#img2img_script_container #script_list ul.options li').filter({ hasText: script }).first().click();
      const { log, pictures } = await generate();
      const last = pictures.length && await pixels(pictures.at(-1));
      seen.runs.push({ log, count: pictures.length, changed: last && compare(last, scene, everywhere)[1] });
    }
    await top();
    await shot('panel-f-scripts');
  },

  // Three files in Batch: every file has a mask of its own, and Segment shows that of the first.
  async batch() {
    await openPanel();
    await write('prompt', PHRASE);
    await setNumber(ours('threshold'), process.env.THRESHOLD);
    await openAdvanced('inpainting');
    await noMaskBlur();
    await page.locator(`${ours('append')} input`).check();
    await page.evaluate(() => switch_to_img2img_tab(5));
    const files = page.locator('#img2img_batch_upload input[type=file]');
    if (await files.count()) {
      await files.setInputFiles(scenes);
      await page.waitForFunction(count => {
        const list = document.querySelector('#img2img_batch_upload');
        return list.querySelectorAll('tr').length >= count && !list.innerText.includes('Uploading');
      }, scenes.length);
    } else { // reForge's tab takes a folder only
      await page.locator('#img2img_batch_input_dir textarea').fill(dirname(scenes[0]));
    }
    const first = await segmented();
    seen.first = [await status(), share_of(first)];
    await shot('panel-9-batch-segment', ours('enabled'));
    const batch = await generate();
    seen.log = batch.log;
    seen.count = batch.pictures.length;
    seen.compared = [];
    seen.masks = [];
    for (const [at, file] of scenes.entries()) { // picture, mask and overlay of each
      const [picture, own] = batch.pictures.slice(3 * at, 3 * at + 2);
      const mask = own && await pixels(own, 1);
      seen.compared.push(mask && compare(await pixels(picture), await pixels(dataUrl(file)), mask));
      seen.masks.push(mask && share_of(mask));
    }
    await top();
    await shot('panel-9-batch');
  },

  // The parameters of a picture that was made without us switch the panel off, those of one of ours on.
  async parameters() {
    await openPanel();
    await write('prompt', PHRASE);
    const isOn = () => page.locator(`${ours('enabled')}-checkbox input`).isChecked();
    const foreign = 'a red ball\nSteps: 3, Sampler: Euler a, CFG scale: 6.5, Seed: 5, Size: 192x128, Model: other';
    seen.pasted = [];
    for (const [text, expected] of [[foreign, false], [`${foreign}, LD-ZNet prompt: a drop, LD-ZNet threshold: 0.35`, true]]) {
      await page.locator('#img2img_prompt textarea').fill(text);
      await page.locator('#img2img_tools #paste').click();
      await changes(() => page.locator('#img2img_prompt textarea').inputValue(), text);
      await changes(async () => String(await isOn()), String(!expected), 60000).catch(() => null);
      seen.pasted.push([await isOn(), await page.locator(`${ours('prompt')} textarea`).inputValue(),
        await page.locator(`${ours('threshold')} input[type=number]`).inputValue()]);
    }
  },

  async dark() {
    await openPanel(scenes[0], 'dark');
    await slid('threshold', process.env.THRESHOLD);
    await write('prompt', PHRASE);
    await segmented();
    await top();
    await shot('panel-a-dark');
    seen.status = await status();
  },

  // Reload UI: the scripts are loaded anew, our modules are not. The last part, since others would miss the server.
  async reload() {
    await open();
    // The page asks every half second whether the server is back. Where that comes while AUTOMATIC1111 1.10.1 adds its
    // routes, it fails: "Cannot add middleware after an application has started".
    await page.route('**/internal/ping', route => route.abort());
    await page.waitForTimeout(5000);
    await page.evaluate(() => gradioApp().querySelector('#settings_restart_gradio').click());
    for (let waited = 0; logged('Restarting UI') < 1 && waited < 10; waited++) await page.waitForTimeout(1000);
    await leave();
    const wait = seconds => new Promise(resolve => setTimeout(resolve, 1000 * seconds));
    if (process.env.LOG) for (let waited = 0; logged('Startup time:') < 2 && waited < 240; waited++) await wait(1);
    else await wait(60); // nothing else tells that it has been down
    await openPanel();
    await write('prompt', PHRASE);
    await setNumber(ours('threshold'), process.env.THRESHOLD);
    await pressed();
    seen.status = await status();
  },
};

// Put a picture into another tab, and segment and generate there.
async function otherTab(tab, id, scene) {
  await openPanel();
  await write('prompt', PHRASE);
  await setNumber(ours('threshold'), process.env.THRESHOLD);
  await openAdvanced('inpainting');
  await noMaskBlur();
  await page.locator(`${ours('advanced')} > .label-wrap`).click();
  for (let tries = 3; tries; tries--) {
    await page.evaluate(tab => switch_to_img2img_tab(tab), tab);
    await page.waitForTimeout(1000); // a canvas is as large as what it is in
    const file = page.locator(`${id} input[type=file]`);
    if (await file.count()) await file.setInputFiles(scene);
    // Before that, the page would send an empty canvas. The webui's own canvas misses its size at times: then the
    // tab is left and shown again.
    const drawn = page.waitForFunction(([id, width]) => {
      const canvases = [...document.querySelectorAll(`${id} canvas`)];
      return canvases.length && canvases.every(canvas => canvas.width === width);
    }, [id, Number(process.env.WIDTH)], { timeout: tries > 1 ? 20000 : PATIENCE });
    if (tries === 1) await drawn;
    else if (await drawn.then(() => true, () => false)) break;
    await page.evaluate(() => switch_to_img2img_tab(0));
  }
  await page.waitForTimeout(1000);
  const mask = await segmented(), run = await generate();
  const picture = run.pictures[0] && await pixels(run.pictures[0]);
  seen.log = run.log;
  seen.masked = share_of(mask);
  seen.repainted = picture && compare(picture, await pixels(dataUrl(scene)), mask);
}

const report = {};
for (const [name, act] of Object.entries(parts)) {
  if (process.env.PARTS && !process.env.PARTS.split(',').includes(name)) continue;
  seen = { errors: [] };
  const start = Date.now();
  try {
    await act();
  } catch (error) {
    seen.failed = String(error.stack || error);
    await shot(`panel-failed-${name}`).catch(() => null);
  }
  seen.seconds = (Date.now() - start) / 1000;
  report[name] = seen;
  finished = null;
  await leave().catch(() => null);
}
await browser.close();
console.log(JSON.stringify(report, null, 1));
