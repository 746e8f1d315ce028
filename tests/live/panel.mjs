// node panel.mjs: drives the panel in a headless Chromium as a user would; prints what it has seen as JSON.
// URL, SCENES (comma-separated files), PHRASE, PHRASES (several), FIRST_THRESHOLD, THRESHOLD (a lower one),
// WIDTH, HEIGHT (the scenes'), LOG (the webui's), SHOTS (a folder for screenshots), CHROMIUM, PLAYWRIGHT (its index.mjs).
import { readFileSync } from 'node:fs';
const { chromium } = await import(process.env.PLAYWRIGHT || 'playwright-core');
const { URL: address, PHRASE, SHOTS } = process.env;
const scenes = process.env.SCENES.split(',');
const ours = name => `#script_ldznet_segment_${name}`;
const seen = { errors: [] };
const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
  '--disable-background-networking', '--disable-component-update'];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || '/usr/bin/chromium', args: flags });
const page = await browser.newPage({ viewport: { width: 1400, height: 1420 } });
page.setDefaultTimeout(60000);
page.on('pageerror', error => seen.errors.push(error.message));

async function open(theme = 'light') {
  await page.goto(`${address}/?__theme=${theme}`, { waitUntil: 'load' });
  await page.waitForFunction(() => typeof switch_to_img2img === 'function' && gradioApp().querySelector('#img2img_generate'));
  await page.waitForTimeout(2000);
  await page.evaluate(() => switch_to_img2img());
  await page.waitForSelector('#img2img_generate', { state: 'visible' });
  for (const [name, value] of [['width', process.env.WIDTH], ['height', process.env.HEIGHT], ['steps', 3], ['denoising_strength', 0.9]]) {
    await setNumber(`#img2img_${name}`, value);
  }
  await page.locator('#img2img_prompt textarea').fill('a green star');
}
async function setNumber(id, value) {
  const box = page.locator(`${id} input[type=number]`);
  await box.fill(String(value));
  await box.blur();
}
const shot = async (name, part) => {
  if (!SHOTS) return;
  await page.waitForTimeout(400);
  if (part) await page.locator(part).screenshot({ path: `${SHOTS}/${name}.png` });
  else await page.screenshot({ path: `${SHOTS}/${name}.png` });
};
// The whole page is the picture: tabs and result at the top, the panel below.
const top = () => page.evaluate(() => scrollTo(0, 0));
const upload = async (id, file) => {
  await page.locator(`${id} input[type=file]`).setInputFiles(file);
  await page.waitForSelector(`${id} img`);
};
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
async function segmented() {
  const old = await source(ours('overlay'));
  await page.locator(ours('segment')).click();
  await changes(() => source(ours('overlay')), old);
  return pixels(await source(ours('mask_picture')), 1);
}
// A stroke from one point to another, given as parts of the picture's sides.
async function stroke(id, from, to) {
  await page.locator(id).scrollIntoViewIfNeeded();
  const box = await page.locator(`${id} canvas`).first().boundingBox();
  const at = ([x, y]) => [box.x + x * box.width, box.y + y * box.height];
  await page.mouse.move(...at(from));
  await page.mouse.down();
  await page.mouse.move(...at(to), { steps: 12 });
  await page.mouse.up();
  await page.waitForTimeout(600);
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
  const info = await page.locator('#html_log_img2img').last().innerText();
  await page.locator('#img2img_generate').click();
  const log = async () => (await page.locator('#html_log_img2img').last().innerText()).trim();
  const running = () => page.evaluate(() => gradioApp().querySelector('#img2img_interrupt').style.display === 'block');
  await page.waitForTimeout(200);
  while (await running()) await page.waitForTimeout(100);
  await changes(log, info.trim(), 5000).catch(() => null); // a run may have taken as long as the one before
  await page.waitForTimeout(1200);
  const addresses = await page.locator('#img2img_gallery .thumbnails img, #img2img_gallery .grid-wrap img').evaluateAll(
    images => images.map(image => image.src));
  return { log: (await page.locator('#html_log_img2img').last().innerText()).trim(), pictures: [...new Set(addresses)] };
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
const starts = () => readFileSync(process.env.LOG, 'utf8').split('Startup time:').length - 1;
const dataUrl = file => 'data:image/png;base64,' + readFileSync(file).toString('base64');

try {
  await open();
  await upload('#img2img_image', scenes[0]);
  await page.locator(`${ours('enabled')} > .label-wrap`).first().click();
  await page.waitForSelector(ours('segment'), { state: 'visible' });
  await page.locator(`${ours('advanced')} > .label-wrap`).click();
  await setNumber(ours('mask_blur'), 0);
  await page.locator(`${ours('advanced')} > .label-wrap`).click();
  await shot('panel-1-open');

  const welcome = await status();
  await page.locator(ours('segment')).click();
  seen.withoutPrompt = await changes(status, welcome);

  await page.locator(`${ours('prompt')} textarea`).fill(PHRASE);
  await setNumber(ours('threshold'), process.env.FIRST_THRESHOLD);
  let start = Date.now();
  await page.locator(ours('segment')).click();
  await page.waitForSelector(`${ours('mask_picture')} img`);
  seen.segmentMs = Date.now() - start;
  await page.waitForTimeout(500);
  seen.status = await status();
  seen.share = await share(ours('mask_picture'));
  await top();
  await shot('panel-2-segment');

  const before = await source(ours('mask_picture'));
  start = Date.now();
  await setNumber(ours('threshold'), process.env.THRESHOLD);
  await changes(() => source(ours('mask_picture')), before);
  seen.thresholdMs = Date.now() - start;
  seen.shareLower = await share(ours('mask_picture'));
  await shot('panel-3-threshold', ours('enabled'));
  seen.downloads = [];
  for (const name of ['mask_picture', 'overlay']) {
    const file = await page.locator(`${ours(name)} a[download]`).first().getAttribute('href');
    seen.downloads.push([(await pixels(file)).data.join(), (await pixels(await source(ours(name)))).data.join()]);
  }
  seen.downloads = seen.downloads.map(([file, shown]) => [file.length, file === shown]);

  // Generate in the img2img tab: the script makes the mask.
  const made = await generate();
  seen.img2imgLog = made.log;
  const mask = await pixels(await source(ours('mask_picture')), 1);
  const scene = await pixels(dataUrl(scenes[0]));
  seen.img2img = compare(await pixels(made.pictures[0]), scene, mask);
  await top();
  await shot('panel-4-generate');

  const ownTab = await source('#img2img_image');
  await page.locator(ours('send')).click();
  await page.waitForSelector('#img_inpaint_mask img', { state: 'visible' });
  await page.waitForTimeout(800);
  seen.tab = await page.evaluate(() => get_tab_index('mode_img2img'));
  seen.size = [await page.locator('#img2img_width input[type=number]').inputValue(),
    await page.locator('#img2img_height input[type=number]').inputValue()];
  seen.sentShare = await share('#img_inpaint_mask');
  seen.ownTabKept = ownTab !== null && (await source('#img2img_image')) === ownTab;
  await top();
  await shot('panel-5-send');

  // Generate there with the script off: only what was sent counts.
  await page.locator(`${ours('enabled')} > .label-wrap`).first().click();
  await page.waitForTimeout(300);
  await setNumber('#img2img_mask_blur', 0);
  const sent = await generate();
  seen.inpaintLog = sent.log;
  seen.inpaint = compare(await pixels(sent.pictures[0]), scene, mask);
  await top();
  await shot('panel-6-inpaint');

  // The other tabs: Segment sees their picture, Generate paints in it; what is painted is combined with the words.
  await page.locator(`${ours('enabled')} > .label-wrap`).first().click();
  seen.tabs = {};
  for (const [tab, name, id, scene] of [[1, 'sketch', '#img2img_sketch', scenes[1]],
    [2, 'inpaint', '#img2maskimg', scenes[2]], [3, 'inpaint sketch', '#inpaint_sketch', scenes[0]]]) {
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
      }, [id, Number(process.env.WIDTH)], { timeout: tries > 1 ? 15000 : 60000 });
      if (tries === 1) await drawn;
      else if (await drawn.then(() => true, () => false)) break;
      await page.evaluate(() => switch_to_img2img_tab(0));
    }
    await page.waitForTimeout(500);
    const mask = await segmented();
    const run = await generate();
    const picture = run.pictures[0] && await pixels(run.pictures[0]);
    seen.tabs[name] = {
      log: run.log, masked: share_of(mask), repainted: picture && compare(picture, await pixels(dataUrl(scene)), mask),
    };
  }
  await page.evaluate(() => switch_to_img2img_tab(2));
  await page.locator(`${ours('advanced')} > .label-wrap`).click();
  await choose('brush', 'add');
  await stroke('#img2maskimg', [0.05, 0.62], [0.9, 0.62]);
  seen.brush = { add: share_of(await segmented()) };
  for (const mode of ['replace', 'subtract', 'intersect']) { // live; nothing changes where nothing would
    const old = await source(ours('mask_picture'));
    await choose('brush', mode);
    await changes(() => source(ours('mask_picture')), old, 8000).catch(() => null);
    seen.brush[mode] = await share(ours('mask_picture'));
  }
  await choose('brush', 'add');
  await page.waitForTimeout(4000);
  const added = await pixels(await source(ours('mask_picture')), 1);
  await shot('panel-b-brush');
  const painted = await generate();
  seen.brushed = compare(await pixels(painted.pictures[0]), await pixels(dataUrl(scenes[2])), added);
  await page.evaluate(() => switch_to_img2img_tab(3));
  await stroke('#inpaint_sketch', [0.1, 0.1], [0.5, 0.1]);
  await choose('brush', 'intersect'); // what is painted is all that can be left
  await setNumber(ours('threshold'), 0);
  await page.waitForTimeout(4000); // live: what was found before is drawn anew
  const sketchedMask = await segmented();
  await page.locator(`${ours('append')} input`).check();
  const sketched = await generate();
  seen.sketched = sketched.log;
  seen.sketchedMasks = [sketchedMask, await pixels(sketched.pictures[1], 1)].map(mask => ({ painted: share_of(mask), sum: mask.data.reduce((sum, level) => sum + level, 0) }));
  await page.locator(`${ours('append')} input`).uncheck();
  await choose('brush', 'replace');
  await page.locator(`${ours('advanced')} > .label-wrap`).click();
  await page.evaluate(() => switch_to_img2img_tab(0));

  // Several prompts, with the colour map.
  await page.locator(`${ours('prompt')} textarea`).fill(process.env.PHRASES);
  await page.locator(ours('segment')).click();
  await page.waitForSelector(`${ours('colors')} img`, { state: 'visible' });
  await page.waitForTimeout(1000);
  await top();
  await shot('panel-7-several');
  await shot('panel-7-several-part', ours('enabled'));

  // A threshold of those to choose from, clicked twice.
  await page.locator(`${ours('prompt')} textarea`).fill(PHRASE);
  await setNumber(ours('threshold'), 0.05);
  await segmented();
  await page.waitForTimeout(2000);
  const level = () => page.locator(`${ours('threshold')} input[type=number]`).inputValue();
  seen.clickedTwice = [];
  for (let time = 0; time < 2; time++) {
    await page.locator(`${ours('choices')} .thumbnail-item`).first().click();
    seen.clickedTwice.push(await changes(level, '0.05', 15000).catch(() => 'nothing'));
    await page.waitForTimeout(2500);
    await setNumber(ours('threshold'), 0.05);
    await page.waitForTimeout(2500);
  }

  // Numbers of objects: in the same picture, in another one, and after Segment there.
  const numbers = page.locator(`${ours('objects')} textarea, ${ours('objects')} input`).first();
  await page.locator(`${ours('advanced')} > .label-wrap`).click();
  await numbers.fill('1');
  await page.waitForTimeout(2500);
  const middleOfOne = await middle();
  await page.locator(`${ours('objects_picture')} img`).click({ position: middleOfOne });
  await page.waitForTimeout(4000);
  seen.clickedObject = [await numbers.inputValue()];
  await page.locator(`${ours('objects_picture')} img`).click({ position: middleOfOne });
  await page.waitForTimeout(4000);
  seen.clickedObject.push(await numbers.inputValue());
  await page.waitForTimeout(2500);
  seen.numbers = [(await generate()).log];
  await page.locator('#img2img_image button').last().click();
  await upload('#img2img_image', scenes[1]);
  await page.waitForTimeout(1000);
  seen.numbers.push((await generate()).log);
  await segmented();
  seen.numbers.push(await numbers.inputValue());
  await page.locator(`${ours('advanced')} > .label-wrap`).click();

  // Keys.
  await setNumber(ours('threshold'), 0.3);
  await page.locator(`${ours('prompt')} textarea`).focus();
  await page.keyboard.press('Alt+ArrowUp');
  await page.waitForTimeout(1500);
  seen.keys = await level();

  // Nothing found: the run stops, and says why.
  await page.evaluate(() => switch_to_img2img_tab(0));
  await page.locator(`${ours('prompt')} textarea`).fill(PHRASE);
  await setNumber(ours('threshold'), 1);
  await setNumber(ours('grow'), -500);
  const none = await generate();
  seen.nothing = none.log;
  await top();
  await shot('panel-8-nothing');

  // Three files in Batch: every file has a mask of its own.
  await setNumber(ours('threshold'), process.env.THRESHOLD);
  await setNumber(ours('grow'), 0);
  await page.evaluate(() => switch_to_img2img_tab(5));
  await page.waitForTimeout(1000);
  await page.locator('#img2img_batch_upload input[type=file]').setInputFiles(scenes);
  await page.waitForTimeout(8000);
  await page.locator(`${ours('advanced')} > .label-wrap`).click();
  await page.locator(`${ours('append')} input`).check();
  await page.locator(`${ours('advanced')} > .label-wrap`).click();
  const batch = await generate();
  seen.batchLog = batch.log;
  seen.batchPictures = batch.pictures.length;
  seen.batch = [];
  seen.batchMasks = [];
  for (const [at, file] of scenes.entries()) { // picture, mask and overlay of each
    const [picture, own] = batch.pictures.slice(3 * at, 3 * at + 2);
    const mask = own && await pixels(own, 1);
    seen.batch.push(mask && compare(await pixels(picture), await pixels(dataUrl(file)), mask));
    seen.batchMasks.push(mask && share_of(mask));
  }
  await top();
  await shot('panel-9-batch');

  // The parameters of a picture that was made without us switch the panel off, those of one of ours on.
  const isOn = () => page.locator(`${ours('enabled')}-checkbox input`).isChecked();
  const foreign = 'a red ball\nSteps: 3, Sampler: Euler a, CFG scale: 6.5, Seed: 5, Size: 192x128, Model: other';
  seen.pasted = [];
  for (const text of [foreign, `${foreign}, LD-ZNet prompt: a drop, LD-ZNet threshold: 0.35`]) {
    await page.locator('#img2img_prompt textarea').fill(text);
    await page.locator('#img2img_tools #paste').click();
    await changes(() => page.locator('#img2img_prompt textarea').inputValue(), text);
    const before = await isOn();
    await changes(async () => String(await isOn()), String(before), 8000).catch(() => null);
    seen.pasted.push([await isOn(), await page.locator(`${ours('prompt')} textarea`).inputValue(),
      await page.locator(`${ours('threshold')} input[type=number]`).inputValue()]);
  }

  await open('dark');
  await page.locator(`${ours('enabled')} > .label-wrap`).first().click();
  await upload('#img2img_image', scenes[0]);
  await setNumber(ours('threshold'), process.env.THRESHOLD);
  await page.locator(`${ours('prompt')} textarea`).fill(PHRASE);
  await page.locator(ours('segment')).click();
  await page.waitForSelector(`${ours('mask_picture')} img`);
  await page.waitForTimeout(500);
  await top();
  await shot('panel-a-dark');

  // Reload UI: the scripts are loaded anew, our modules are not.
  await page.evaluate(() => gradioApp().querySelector('#settings_restart_gradio').click());
  for (let waited = 0; process.env.LOG && starts() < 2 && waited < 180; waited++) await page.waitForTimeout(1000);
  if (!process.env.LOG) await page.waitForTimeout(20000); // nothing else tells that it has been down
  await page.waitForTimeout(2000);
  await open();
  await page.locator(`${ours('enabled')} > .label-wrap`).first().click();
  await upload('#img2img_image', scenes[0]);
  await page.locator(`${ours('prompt')} textarea`).fill(PHRASE);
  await setNumber(ours('threshold'), process.env.THRESHOLD);
  const fresh = await status();
  await page.locator(ours('segment')).click();
  seen.reloaded = await changes(status, fresh);
} catch (error) {
  seen.failed = String(error.stack || error);
  await shot('panel-failed').catch(() => null);
}
await browser.close();
console.log(JSON.stringify(seen, null, 1));
