// SRT with real senders: two generations of ffmpeg in caller mode on one side, in the clear and encrypted, painted pixels and
// decoded sound in Chromium on the other.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { Browser } from './harness/browser.mjs';
import { Encoder, FFMPEGS } from './harness/encoder.mjs';
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

for (const [name, ffmpeg, more] of [
  ['ffmpeg 5 in the clear', FFMPEGS['ffmpeg 5'], []],
  ['ffmpeg 9 with AES-256', FFMPEGS['ffmpeg 9'], ['--passphrase', 'auto', '--pbkeylen', '32']],
]) {
  test(`${name}: the picture moves and the sound is decoded`, async () => {
    const input = await weir.input(name, 'srt', ...more);
    assert.equal(/passphrase=.+&pbkeylen=32/.test(input.urls.srt), more.length > 0, 'the address says how to encrypt');
    const token = await weir.token(input.id);
    const encoder = Encoder.start(input.urls.srt, { ffmpeg });
    try {
      const viewer = await browser.open(token.page);
      const first = await viewer.moving();
      assert.deepEqual([first.width, first.height], [640, 360]);
      await viewer.moving(first);
      await waitFor('sound is decoded', async () => (await viewer.look()).audioBytes > first.audioBytes, {
        explain: () => viewer.account(),
      });
      await viewer.state('playing');
      await viewer.close();
    } catch (error) {
      error.message += `\nencoder: ${encoder.stderr}\nweir: ${weir.logLines.slice(-3000)}`;
      throw error;
    } finally {
      await encoder.stop({ abort: true });
    }
  });
}
