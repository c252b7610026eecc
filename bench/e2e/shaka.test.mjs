// A player that is not ours: Shaka's experimental build over draft 16 with the MSF catalog. It shares no line with
// Weir's player, so what it plays is right by someone else's reading of the drafts.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import path from 'node:path';
import { after, before, test } from 'node:test';

import { keep } from '../interop/harness/outcomes.mjs';
import { Browser } from './harness/browser.mjs';
import { Encoder } from './harness/encoder.mjs';
import { waitFor } from './harness/wait.mjs';
import { Weir } from './harness/weir.mjs';

const HERE = import.meta.dirname;

let weir;
let browser;
let site;

before(async () => {
  weir = await Weir.start();
  browser = await Browser.start();
  const files = {
    '/': ['text/html', await readFile(path.join(HERE, 'pages/shaka.html'))],
    '/shaka.js': [
      'text/javascript',
      await readFile(path.join(HERE, 'node_modules/shaka-player/dist/shaka-player.experimental.js')),
    ],
    '/fingerprint': ['text/plain', weir.ready.cert_sha256],
  };
  site = createServer((request, response) => {
    const [type, body] = files[new URL(request.url, 'http://site').pathname] ?? [];
    response.writeHead(type ? 200 : 404, { 'content-type': type ?? 'text/plain' }).end(body ?? 'not here');
  });
  await new Promise((resolve) => site.listen(0, '127.0.0.1', resolve));
});

after(async () => {
  await browser?.stop();
  site?.close();
  await weir?.stop();
});

test('shaka plays the broadcast over draft 16 with the MSF catalog', async () => {
  const input = await weir.input('shaka');
  const token = await weir.token(input.id);
  const encoder = Encoder.start(input.urls.rtmp);
  try {
    // Shaka asks once, and gives up when nothing is there.
    await waitFor('the broadcast is live', async () => weir.broadcastState(input.id) === 'live');
    const wanted = { playback: token.playback, namespace: await weir.namespace(input.id) };
    const url = `http://localhost:${site.address().port}/#${encodeURIComponent(JSON.stringify(wanted))}`;
    const viewer = await browser.open(url);
    const account = async () => ({
      look: await viewer.look(),
      errors: await viewer.page.evaluate(() => globalThis.errors),
      console: viewer.console,
      weir: weir.logLines.slice(-3000),
    });
    const first = await viewer.moving(null, { explain: account });
    await viewer.moving(first, { explain: account });
    await waitFor('sound is decoded', async () => (await viewer.look()).audioBytes > 0, { explain: account });
    await waitFor('ten seconds play', async () => (await viewer.look()).currentTime > first.currentTime + 10, {
      explain: account,
    });
    assert.deepEqual(await viewer.page.evaluate(() => globalThis.errors), []);
    const tracks = await viewer.page.evaluate(() => globalThis.player.getVariantTracks().map((t) => [t.videoCodec, t.audioCodec]));
    assert.equal(tracks.length, 1);
    assert.match(tracks[0][0], /^avc1\./);
    assert.match(tracks[0][1], /^mp4a\.40\.2/);
    keep({ peer: 'Shaka Player 5.2.12, experimental', does: 'plays with the MSF catalog', draft: 16, transport: 'WebTransport', passed: 1, of: 1 });
    await viewer.screenshot('shaka');
    await viewer.close();
  } finally {
    await encoder.stop({ abort: true });
  }
});

test('shaka that is given no namespace is told of its broadcast and plays it', async () => {
  const input = await weir.input('nameless');
  const token = await weir.token(input.id);
  const encoder = Encoder.start(input.urls.rtmp);
  try {
    await waitFor('the broadcast is live', async () => weir.broadcastState(input.id) === 'live');
    const url = (playback) =>
      `http://localhost:${site.address().port}/#${encodeURIComponent(JSON.stringify({ playback }))}`;
    const viewer = await browser.open(url(`${token.playback}&announce=1`));
    const account = async () => ({
      look: await viewer.look(),
      errors: await viewer.page.evaluate(() => globalThis.errors),
      console: viewer.console,
    });
    await viewer.moving(null, { explain: account });
    await viewer.close();
  } finally {
    await encoder.stop({ abort: true });
  }
});
