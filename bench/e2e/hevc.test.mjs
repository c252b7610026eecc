// Codecs beyond H.264 and AAC in a real browser: AV1 and Opus play; HEVC, which this Chromium has no decoder for, is said to
// be undecodable, and a publisher that then changes to H.264 is shown without a reload.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { Browser } from './harness/browser.mjs';
import { Encoder, FFMPEGS } from './harness/encoder.mjs';
import { waitFor } from './harness/wait.mjs';
import { Weir } from './harness/weir.mjs';

const ffmpeg = FFMPEGS['ffmpeg 9'];
const OPUS = ['-c:a', 'libopus', '-ac', '2'];
const AV1 = ['-c:v', 'libsvtav1', '-preset', '12', '-g', '30', '-svtav1-params', 'lp=1:pred-struct=1:rtc=1', '-crf', '40'];
const HEVC = ['-c:v', 'libx265', '-preset', 'ultrafast', '-tune', 'zerolatency', '-x265-params', 'log-level=none:keyint=30:pools=1'];

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

async function broadcast(name, codecs, story) {
  const input = await weir.input(name);
  const token = await weir.token(input.id);
  const encoder = Encoder.start(input.urls.rtmp, { ffmpeg, codecs });
  try {
    await story({ input, token, encoder });
  } catch (error) {
    error.message += `\nencoder: ${encoder.stderr}\nweir: ${weir.logLines.slice(-3000)}`;
    throw error;
  } finally {
    await encoder.stop({ abort: true });
  }
}

test('AV1 and Opus play', async () => {
  await broadcast('av1', [...AV1, ...OPUS], async ({ token }) => {
    const viewer = await browser.open(token.page);
    const first = await viewer.moving();
    assert.deepEqual([first.width, first.height], [640, 360]);
    await viewer.moving(first);
    await waitFor('sound is decoded', async () => (await viewer.look()).audioBytes > first.audioBytes, {
      explain: () => viewer.account(),
    });
    await viewer.state('playing');
    await viewer.close();
  });
});

test('HEVC is said to be undecodable, and H.264 after it plays', async () => {
  await broadcast('hevc', [...HEVC, ...OPUS], async ({ input, token, encoder }) => {
    const viewer = await browser.open(token.page);
    assert.equal(await viewer.page.evaluate(() => MediaSource.isTypeSupported('video/mp4; codecs="hvc1.1.6.L63.90"')), false);
    await viewer.state('failed');
    const said = await viewer.page.evaluate(() => {
      const player = document.querySelector('weir-player');
      return `${player.shadowRoot?.textContent} ${document.body.textContent}`;
    });
    assert.match(said, /cannot decode the video of this broadcast \(hvc1\.1\.6\.L\d+\.90\)/);
    await encoder.stop();
    const second = Encoder.start(input.urls.rtmp, { ffmpeg });
    try {
      const first = await viewer.moving();
      await viewer.moving(first);
      await viewer.state('playing');
    } finally {
      await second.stop({ abort: true });
    }
    await viewer.close();
  });
});
