// The operator's console in a real browser: an API key in, a new input, its key shown once, an encoder on the address the
// page shows, and the state and health that follow.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { Browser } from './harness/browser.mjs';
import { Encoder } from './harness/encoder.mjs';
import { waitFor } from './harness/wait.mjs';
import { Weir } from './harness/weir.mjs';

let weir;
let browser;

before(async () => {
  weir = await Weir.start();
  browser = await Browser.start();
});

after(async () => {
  await browser?.stop();
  await weir?.stop();
});

test('an operator makes an input, pastes its address into an encoder and sees it live', async () => {
  const viewer = await browser.open(`${weir.http}/console`);
  const { page } = viewer;
  await page.fill('#key', 'ak_live_wrong');
  await page.click('#enter button');
  await page.waitForSelector('#said:has-text("API key refused")');
  assert.equal(await page.inputValue('#key'), '', 'the key does not stay in the field');

  await page.fill('#key', weir.ready.api_key);
  await page.click('#enter button');
  await page.waitForSelector('#empty:not([hidden])');
  await page.fill('#name', 'Main stage');
  await page.click('#create button');
  await page.waitForSelector('#lines code:has-text("rtmp://")');
  const [server, key] = await page.locator('#lines code').allTextContents();
  assert.match(server, /^rtmp:\/\/127\.0\.0\.1:\d+\/live$/);
  assert.match(key, /^lv_\w+\?sk=sk_live_\w+$/);
  weir.secret(key.split('sk=')[1]);
  await page.click('#tabs >> text=GStreamer');
  assert.match(await page.locator('#lines').innerText(), /rtmp2sink location='rtmp:[\s\S]*location='rtmps:/);

  const encoder = Encoder.start(`${server}/${key}`);
  try {
    await page.waitForSelector('#inputs .state[data-tone=live]');
    await waitFor(
      'its health',
      async () => /640×360 avc1[\s\S]*1000 ms apart/.test(await page.locator('#health').innerText()),
      { explain: () => page.locator('#health').innerText() },
    );
    await page.click('#tabs >> text=ffmpeg');
    await viewer.screenshot('console');
    await page.setViewportSize({ width: 360, height: 780 });
    await viewer.screenshot('console-narrow');
    const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
    assert.equal(wide, false, 'nothing scrolls sideways but code lines');
  } finally {
    await encoder.stop({ abort: true });
  }
  await page.waitForSelector('#inputs .state[data-tone=warn]');

  // Another visit knows the input and not the key.
  await page.reload();
  await page.fill('#key', weir.ready.api_key);
  await page.click('#enter button');
  await page.waitForSelector('#lines code:has-text("<stream key>")');
  assert.doesNotMatch(await page.content(), /sk_live_|ak_live_[a-z0-9]{8}/);
  assert.deepEqual(viewer.console.filter((line) => line.startsWith('uncaught')), []);
  await viewer.close();
});
