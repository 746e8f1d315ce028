// node panel_times.mjs: times the panel and our own route in turns; prints the seconds of each step as JSON.
// URL, IMAGES (comma-separated files, an odd number), PHRASE, CHROMIUM, PLAYWRIGHT: see panel_times.py.
import { readFileSync } from 'node:fs';
const { chromium } = await import(process.env.PLAYWRIGHT || 'playwright-core');
const { URL: address, PHRASE } = process.env;
const images = process.env.IMAGES.split(',');
const ours = name => `#script_ldznet_segment_${name}`;
const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
  '--disable-background-networking', '--disable-component-update',
  // The page asks servers of others for fonts and a script: without a network that takes minutes.
  `--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE ${new URL(address).hostname}`];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || '/usr/bin/chromium', args: flags });
const page = await browser.newPage({ viewport: { width: 1400, height: 1420 } });
page.setDefaultTimeout(120000);

// Within the page: from `act` until the overlay is another image, and decoded. In seconds.
const untilShown = (act, value) => page.evaluate(async ([act, value, overlay, segment, slider]) => {
  const shown = () => document.querySelector(`${overlay} img`)?.src;
  const before = shown(), start = performance.now();
  if (act === 'segment') document.querySelector(segment).click();
  else {
    const box = document.querySelector(slider.replace('NAME', act));
    box.value = value;
    for (const kind of ['input', 'change', 'blur']) box.dispatchEvent(new Event(kind, { bubbles: true }));
  }
  while (!shown() || shown() === before) {
    await new Promise(requestAnimationFrame);
    if (performance.now() - start > 100000) throw new Error(`nothing was shown after ${act}`);
  }
  await document.querySelector(`${overlay} img`).decode();
  return (performance.now() - start) / 1000;
}, [act, value, ours('overlay'), ours('segment'), `${ours('NAME')} input[type=number]`]);

async function askRoute(file) {
  const body = JSON.stringify({ image: readFileSync(file).toString('base64'), prompt: PHRASE, threshold: 0.2 });
  const start = performance.now();
  const answer = await fetch(`${address}/ldznet/segment`, { method: 'POST', body, headers: { 'Content-Type': 'application/json' } });
  if (!answer.ok) throw new Error(await answer.text());
  await answer.json();
  return (performance.now() - start) / 1000;
}

async function upload(file) {
  const remove = page.locator('#img2img_image button[aria-label=Clear], #img2img_image button[title=Clear]');
  if (await page.locator('#img2img_image img').count()) await remove.last().click();
  await page.locator('#img2img_image input[type=file]').setInputFiles(file);
  await page.waitForSelector('#img2img_image img');
  await page.waitForTimeout(1500); // the webui's own events about a new image
}

const times = { route: [], segment: [], threshold: [], grow: [], feather: [] };
try {
  await page.goto(`${address}/?__theme=light`, { waitUntil: 'load' });
  await page.waitForFunction(() => typeof switch_to_img2img === 'function' && gradioApp().querySelector('#img2img_generate'));
  await page.waitForTimeout(2000);
  await page.evaluate(() => switch_to_img2img());
  await page.waitForSelector('#img2img_generate', { state: 'visible' });
  await page.locator(`${ours('enabled')} > .label-wrap`).first().click();
  await page.waitForSelector(ours('segment'), { state: 'visible' });
  await page.locator(`${ours('prompt')} textarea`).fill(PHRASE);
  const box = page.locator(`${ours('threshold')} input[type=number]`);
  await box.fill('0.2');
  await box.blur();
  await askRoute(images.pop()); // the first run of a webui also loads the head
  for (let round = 0; images.length; round++) {
    const [one, other] = [images.pop(), images.pop()];
    times.route.push(await askRoute(one));
    await upload(other);
    times.segment.push(await untilShown('segment'));
    await page.waitForTimeout(1500);
    for (const [name, value, back] of [['threshold', 0.1, 0.2], ['grow', 8, 0], ['feather', 8, 0]]) {
      times[name].push(await untilShown(name, value));
      await page.waitForTimeout(1000);
      await untilShown(name, back);
      await page.waitForTimeout(1000);
    }
  }
  console.log(JSON.stringify(times));
} finally {
  await browser.close();
}
