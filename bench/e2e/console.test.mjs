// The operator's console in a real browser: an API key in, a new input, its key shown once, an encoder on the address the
// page shows, and the state and health that follow.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';

import { Browser } from './harness/browser.mjs';
import { Encoder, FFMPEGS } from './harness/encoder.mjs';
import { waitFor } from './harness/wait.mjs';
import { BINARY, Weir, outcome } from './harness/weir.mjs';

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
  assert.equal(await page.locator('#tabs [aria-selected=true]').innerText(), 'OBS');
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

test("each protocol's ffmpeg line makes its input live as it was pasted", async () => {
  const folder = await mkdtemp(path.join(tmpdir(), 'weir-console-'));
  await symlink(FFMPEGS['ffmpeg 9'], path.join(folder, 'ffmpeg'));
  await symlink(BINARY, path.join(folder, 'weir'));
  const source = ['-f', 'lavfi', '-i', 'testsrc2=size=320x180:rate=30', '-f', 'lavfi', '-i', 'sine'];
  const filmed = await outcome('ffmpeg', ['-v', 'error', ...source, '-t', '60', '-preset', 'ultrafast', '-c:a', 'aac', path.join(folder, 'input.mp4')]);
  assert.equal(filmed.status, 0, filmed.stderr);
  const viewer = await browser.open(`${weir.http}/console`);
  const { page } = viewer;
  await page.fill('#key', weir.ready.api_key);
  await page.click('#enter button');
  try {
    for (const [ingest, lines] of [['rtmp', 2], ['srt', 1], ['whip', 1], ['fmp4', 1]]) {
      await page.fill('#name', `pasted ${ingest}`);
      await page.selectOption('#ingest', ingest);
      await page.click('#create button');
      await page.waitForSelector(`#title:has-text("pasted ${ingest}")`);
      await page.click('#tabs >> text=ffmpeg');
      await viewer.screenshot(`console-${ingest}`);
      const commands = await page.locator('#lines code').allTextContents();
      assert.equal(commands.length, lines);
      for (const command of commands) {
        const [, id] = /(lv_\w+)/.exec(command);
        weir.secret(/sk_live_\w+/.exec(command)[0]);
        const shell = spawn('sh', ['-c', command], { cwd: folder, env: { ...process.env, PATH: `${folder}:${process.env.PATH}` }, detached: true, stdio: ['ignore', 'ignore', 'pipe'] });
        let said = '';
        shell.stderr.on('data', (bytes) => (said += bytes));
        const ended = new Promise((resolve) => shell.on('close', resolve));
        try {
          await waitFor(`${command.split(' ').slice(-1)} is live`, () => weir.broadcastState(id) === 'live', {
            explain: () => ({ command, said: said.slice(-2000), weir: weir.logLines.slice(-2000) }),
          });
        } finally {
          if (shell.exitCode === null) process.kill(-shell.pid, 'SIGKILL');
          await ended;
        }
        // The next line is for the same input.
        if (command !== commands.at(-1)) await waitFor('its publisher is gone', () => weir.broadcastState(id) !== 'live');
      }
    }
    await viewer.close();
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});
