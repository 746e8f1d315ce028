// node parameters.mjs: sends pictures' parameters to the panel in a headless Chromium; prints what it then shows, as JSON.
// URL, PICTURES and TEXTS (JSON lists: files for PNG Info; texts for the arrow below Generate), CONTROLS (JSON: name ->
// kind), CHROMIUM, PLAYWRIGHT (its index.mjs).
const { chromium } = await import(process.env.PLAYWRIGHT || 'playwright-core');
const [pictures, texts, controls] = ['PICTURES', 'TEXTS', 'CONTROLS'].map(name => JSON.parse(process.env[name]));
const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
  '--disable-background-networking', '--disable-component-update',
  // The page asks servers of others for fonts and a script: without a network that takes minutes.
  `--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE ${new URL(process.env.URL).hostname}`];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || '/usr/bin/chromium', args: flags });
const page = await browser.newPage({ viewport: { width: 1400, height: 1420 } });
page.setDefaultTimeout(120000);
const seen = { errors: [], pictures: [], texts: [] };
page.on('pageerror', error => seen.errors.push(error.message));

const read = () => page.evaluate(controls => Object.fromEntries(Object.entries(controls).map(([name, kind]) => {
  const id = `#script_ldznet_segment_${name}`;
  const find = inside => gradioApp().querySelector(id + inside);
  if (name === 'enabled') return [name, find('-checkbox input').checked];
  if (kind === 'switch') return [name, find(' input').checked];
  if (kind === 'text') return [name, (find(' textarea') || find(' input')).value];
  if (kind === 'choice') return [name, find(' input').value];
  return [name, Number(find(' input[type=number]').value)];
})), controls);

// What the controls show when nothing has changed for two seconds, after something has. A busy page loses the first
// click; a second one does no harm.
async function after(act) {
  const before = JSON.stringify(await read());
  for (let tries = 0; tries < 4; tries++) {
    await act();
    let last = before, since = 0;
    for (const start = Date.now(); since || Date.now() - start < 30000; await page.waitForTimeout(100)) {
      const now = JSON.stringify(await read());
      if (now !== last) [last, since] = [now, Date.now()];
      if (since && Date.now() - since > 2000) return JSON.parse(now);
    }
  }
  throw new Error('nothing has changed');
}

try {
  await page.goto(`${process.env.URL}/?__theme=light`, { waitUntil: 'load', timeout: 120000 });
  await page.waitForFunction(() => typeof switch_to_img2img === 'function' && gradioApp().querySelector('#img2img_generate')
    && gradioApp().querySelector('#mode_img2img button'));
  await page.waitForTimeout(4000);
  await page.evaluate(() => switch_to_img2img());
  for (const text of texts) {
    seen.texts.push(await after(async () => {
      await page.locator('#img2img_prompt textarea').fill(text);
      await page.locator('#img2img_tools #paste').click();
    }));
  }
  for (const file of pictures) {
    await page.locator('#tabs > .tab-nav button', { hasText: 'PNG Info' }).click();
    const old = await page.locator('#tab_pnginfo').innerText();
    await page.locator('#pnginfo_image input[type=file]').setInputFiles(file);
    await page.waitForFunction(old => {
      const now = gradioApp().querySelector('#tab_pnginfo').innerText;
      return now !== old && now.includes('LD-ZNet');
    }, old);
    await page.waitForTimeout(1000);
    seen.pictures.push(await after(() => page.evaluate(() => gradioApp().querySelector('#tab_pnginfo #img2img_tab').click())));
    seen.tab = await page.evaluate(() => get_uiCurrentTab().innerText.trim());
  }
} catch (error) {
  seen.failed = String(error);
}
console.log(JSON.stringify(seen));
await browser.close();
