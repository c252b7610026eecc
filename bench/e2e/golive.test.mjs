// A browser publishes: Chromium's fake camera through the page of the node, into a second Chromium that watches and into
// a recording that ffmpeg decodes.

import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';

import { Browser } from './harness/browser.mjs';
import { boxesOf } from './harness/mp4box.mjs';
import { waitFor } from './harness/wait.mjs';
import { BINARY, Weir, outcome } from './harness/weir.mjs';

/** The fake camera and microphone, allowed without asking. */
const FAKE = ['--use-fake-ui-for-media-stream', '--use-fake-device-for-media-stream'];

let weir;
let browser;
let folder;

before(async () => {
  weir = await Weir.start();
  browser = await Browser.start(FAKE);
  folder = await mkdtemp(path.join(tmpdir(), 'weir-golive-'));
});

after(async () => {
  await browser?.stop();
  await weir?.stop();
  if (folder) await rm(folder, { recursive: true, force: true });
});

/** Keeps what a publisher opens in a page, to look at when it has ended. */
const LEDGER = () => {
  const kept = (globalThis.ledger = { clones: [], peers: [] });
  const { clone } = MediaStreamTrack.prototype;
  MediaStreamTrack.prototype.clone = function () {
    const made = clone.call(this);
    kept.clones.push(made);
    return made;
  };
  globalThis.RTCPeerConnection = class extends RTCPeerConnection {
    constructor(...options) {
      super(...options);
      kept.peers.push(this);
    }
  };
};

/** As Firefox is: frames of a camera are not handed out. */
const WITHOUT_FRAMES = () => delete globalThis.MediaStreamTrackProcessor;

/** The page with a source open; nothing is published yet. */
async function studio(input, { key = input.stream_key, query = '', source = 'camera', first = LEDGER } = {}) {
  const publisher = await browser.open(`${weir.http}/publish/${input.id}${query}`, first);
  const { page } = publisher;
  await page.click(`#${source}`);
  await page.waitForFunction(() => document.querySelector('#preview').videoWidth > 0);
  await page.fill('#key', key);
  return publisher;
}

/** Once it has ended: no worker, no connection, no copy of a track, and the preview as it was. */
async function leavesNothing(publisher) {
  await until('the worker is gone', publisher, () => publisher.page.workers().length === 0);
  const left = await publisher.page.evaluate(() => ({
    clones: globalThis.ledger.clones.filter((track) => track.readyState !== 'ended').length,
    peers: globalThis.ledger.peers.filter((peer) => peer.signalingState !== 'closed').length,
    preview: document.querySelector('#preview').srcObject.active,
  }));
  assert.deepEqual(left, { clones: 0, peers: 0, preview: true });
}

/** Goes live and waits until the node has agreed. */
async function goLive(publisher) {
  await publisher.page.click('#go');
  await until('the publisher is live', publisher, async () => (await stateOf(publisher)) === 'live');
}

async function end(publisher) {
  await publisher.page.click('#go');
  await until('the publisher has ended', publisher, async () => (await stateOf(publisher)) === 'ended');
  await leavesNothing(publisher);
}

const stateOf = ({ page }) => page.evaluate(() => globalThis.publisher?.state ?? null);
const statsOf = ({ page }) => page.evaluate(() => globalThis.publisher?.stats ?? null);
const noticeOf = ({ page }) => page.evaluate(() => document.querySelector('#notice').textContent);

async function account(publisher) {
  return { state: await stateOf(publisher), stats: await statsOf(publisher), notice: await noticeOf(publisher), console: publisher.console, weir: weir.logLines.slice(-3000) };
}

function until(what, publisher, probe) {
  return waitFor(what, probe, { explain: () => account(publisher) });
}

/** Two looks at the player between which picture and sound went on. */
async function watched(token, publisher) {
  const viewer = await browser.open(token.page);
  const running = async (since) => {
    const look = await viewer.look();
    const moved = look && look.width > 0 && (!since || (look.frames > since.frames + 10 && look.currentTime > since.currentTime && look.audioBytes > since.audioBytes));
    return moved ? look : null;
  };
  const explain = async () => ({ viewer: await viewer.account(), publisher: await account(publisher) });
  const first = await waitFor('a picture shows', () => running(null), { explain });
  await waitFor('picture and sound go on', () => running(first), { explain });
  return viewer;
}

test('the fake camera goes live, is watched in another page and recorded, and ends', async (context) => {
  const input = await weir.input('camera', 'fmp4');
  const token = await weir.token(input.id);
  const publisher = await studio(input);
  await publisher.screenshot('golive-preview');
  await goLive(publisher);
  const viewer = await watched(token, publisher);
  const stats = await until('bitrate, frames and round trip are told', publisher, async () => {
    const now = await statsOf(publisher);
    return now && now.bitrate > 50_000 && now.fps > 5 && now.rttMs !== null ? now : null;
  });
  context.diagnostic(`${stats.videoCodec} with ${stats.audioCodec}, ${Math.round(stats.bitrate / 1000)} kb/s, ${stats.fps} fps, round trip ${stats.rttMs.toFixed(1)} ms`);
  assert.match(stats.videoCodec, /^avc1\./, 'H.264 comes first');
  assert.deepEqual(await publisher.page.evaluate(() => [globalThis.publisher.transport, globalThis.publisher.inWorker]), ['moqt', true]);
  await publisher.screenshot('golive-live');

  const file = path.join(folder, 'camera.mp4');
  const played = await outcome(BINARY, ['play', token.playback, '--insecure', '--duration', '3', '-o', file]);
  assert.equal(played.status, 0, played.stderr);
  const { tracks } = boxesOf(await readFile(file));
  assert.deepEqual(tracks.map(({ codec }) => codec.slice(0, 4).toLowerCase()).sort(), ['avc1', 'opus']);
  const decoded = await outcome('ffmpeg', ['-v', 'error', '-xerror', '-i', file, '-map', '0', '-f', 'null', '-']);
  assert.deepEqual([decoded.status, decoded.stderr], [0, '']);
  const frames = await outcome('ffprobe', ['-v', 'error', '-count_frames', '-select_streams', 'v', '-show_entries', 'stream=nb_read_frames', '-of', 'csv=p=0', file]);
  assert.ok(Number(frames.stdout.trim().replace(',', '')) > 20, frames.stdout);

  await end(publisher);
  await viewer.close();
  await publisher.close();
});

test('a wrong key is refused with a sentence, and a second publisher too', async () => {
  const input = await weir.input('keys', 'fmp4');
  const wrong = await studio(input, { key: `${input.stream_key.slice(0, -1)}${input.stream_key.endsWith('a') ? 'b' : 'a'}` });
  await wrong.page.click('#go');
  await until('the key is refused', wrong, async () => (await stateOf(wrong)) === 'failed');
  assert.match(await noticeOf(wrong), /^Stream key refused\. Copy the key again/);
  await wrong.screenshot('golive-refused');
  await leavesNothing(wrong);
  // The right one works from the same page.
  await wrong.page.fill('#key', input.stream_key);
  await wrong.page.click('#go');
  await until('the right key is taken', wrong, async () => (await stateOf(wrong)) === 'live');

  const second = await studio(input);
  await second.page.click('#go');
  await until('the second one is refused', second, async () => (await stateOf(second)) === 'failed');
  assert.equal(await noticeOf(second), 'Somebody else is publishing to this input.');
  await second.close();
  await wrong.close();

  const rtmp = await weir.input('another protocol');
  const other = await studio(rtmp);
  await other.page.click('#go');
  await until('the protocol is refused', other, async () => (await stateOf(other)) === 'failed');
  assert.match(await noticeOf(other), /takes another protocol/);
  await other.close();
});

test('a screen goes live and is watched', async () => {
  const input = await weir.input('screen', 'fmp4');
  const token = await weir.token(input.id);
  const publisher = await studio(input, { source: 'screen' });
  await goLive(publisher);
  const viewer = await browser.open(token.page);
  await waitFor('its picture shows', async () => (await viewer.look())?.frames > 3, {
    explain: async () => ({ viewer: await viewer.account(), publisher: await account(publisher) }),
  });
  await viewer.close();
  await end(publisher);
  await publisher.close();
});

for (const [name, how] of Object.entries({
  'a browser that does not hand out frames publishes by WHIP': { first: [LEDGER, WITHOUT_FRAMES] },
  'a browser that can do better publishes by WHIP where the input takes that': {},
})) {
  test(name, async () => {
    const input = await weir.input('whip', 'whip');
    const token = await weir.token(input.id);
    const publisher = await studio(input, how);
    await goLive(publisher);
    const viewer = await watched(token, publisher);
    assert.equal(await publisher.page.evaluate(() => globalThis.publisher.transport), 'whip');
    await viewer.close();
    await end(publisher);
    await publisher.close();
  });
}

test('a key in the address leaves the address bar at once', async () => {
  const input = await weir.input('address', 'fmp4');
  const publisher = await browser.open(`${weir.http}/publish/${input.id}?sk=${input.stream_key}`);
  await publisher.page.waitForFunction(() => document.querySelector('#key').value !== '');
  assert.equal(new URL(publisher.page.url()).search, '');
  assert.equal(await publisher.page.inputValue('#input'), input.id);
  await publisher.close();
});
