// Every codec of enhanced RTMP, over RTMP and RTMPS, from a real encoder to `weir play`: the recording holds the very packets
// that the encoder wrote into a file beside, ffmpeg decodes it, and mp4box reads the codecs in it.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import net from 'node:net';
import path from 'node:path';
import { after, before, test } from 'node:test';

import { Encoder, FFMPEGS } from '../e2e/harness/encoder.mjs';
import { boxesOf } from '../e2e/harness/mp4box.mjs';
import { outcome, Weir } from '../e2e/harness/weir.mjs';
import { waitFor } from '../e2e/harness/wait.mjs';
import { recordUntil } from './harness/recording.mjs';

const GROUP = ['-g', '30', '-keyint_min', '30'];
const H264 = ['-c:v', 'libx264', '-preset', 'ultrafast', ...GROUP];
const HEVC = ['-c:v', 'libx265', '-preset', 'ultrafast', '-x265-params', 'log-level=none:keyint=30:bframes=2:pools=1'];
const AV1 = ['-c:v', 'libsvtav1', '-preset', '12', '-g', '30', '-svtav1-params', 'lp=1'];
const AAC = ['-c:a', 'aac', '-ac', '2'];
const OPUS = ['-c:a', 'libopus', '-ac', '2'];

const STORIES = [
  { name: 'H.264 and AAC over RTMPS', tls: true, codecs: [...H264, ...AAC], found: [/^avc1\./, /^mp4a\.40\.2$/] },
  { name: 'HEVC and Opus', codecs: [...HEVC, ...OPUS], found: [/^hvc1\.1\.6\.L\d+\.90$/, /^Opus$/] },
  { name: 'AV1 and Opus over RTMPS', tls: true, codecs: [...AV1, ...OPUS], found: [/^av01\.0\.\d\dM\.08$/, /^Opus$/] },
  {
    name: 'two pictures and two sounds',
    codecs: [
      ...['-map', '0:v', '-map', '1:a', '-c:v:0', 'libx264', '-preset:v:0', 'ultrafast', ...GROUP],
      ...['-c:v:1', 'libsvtav1', '-preset:v:1', '12', '-svtav1-params', 'lp=1', '-s:v:1', '320x180'],
      ...['-c:a:0', 'aac', '-c:a:1', 'libopus', '-ac', '2'],
    ],
    found: [/^avc1\./, /^av01\./, /^mp4a\.40\.2$/, /^Opus$/],
  },
];

let weir;

before(async () => {
  weir = await Weir.start();
});

after(async () => {
  await weir?.stop();
});

/** Hashes of the packets of each stream, in order. */
async function packets(file, ffmpeg) {
  const args = ['-v', 'error', '-i', file, '-map', '0', '-c', 'copy', '-f', 'framehash', '-hash', 'md5', '-'];
  const { status, stdout, stderr } = await outcome(ffmpeg, args);
  assert.equal(status, 0, stderr);
  const streams = [];
  for (const line of stdout.split('\n').filter((line) => line && !line.startsWith('#'))) {
    const fields = line.split(',').map((field) => field.trim());
    // Stream, two times, duration, size, hash; hashes of side data, such as what to skip of the first packet, may follow.
    (streams[Number(fields[0])] ??= []).push(fields[5]);
  }
  return streams;
}

/** Whether `part` stands in `whole` without a gap. */
function holds(whole, part) {
  const at = whole.indexOf(part[0]);
  return at >= 0 && part.every((hash, index) => whole[at + index] === hash);
}

for (const { name, tls = false, codecs, found } of STORIES) {
  test(`ffmpeg 9 with ${name}: recorded byte for byte, and decoded`, async () => {
    const ffmpeg = FFMPEGS['ffmpeg 9'];
    const input = await weir.input(name);
    const token = await weir.token(input.id);
    const keep = path.join(weir.dataDir, `${input.id}-sent.mp4`);
    const file = path.join(weir.dataDir, `${input.id}-played.mp4`);
    const encoder = Encoder.start(tls ? input.urls.rtmps : input.urls.rtmp, { ffmpeg, codecs, keep });
    const explain = () => `${encoder.stderr}\n${weir.logLines.slice(-3000)}`;
    try {
      await waitFor('the input is live', () => weir.broadcastState(input.id) === 'live', { explain });
      await recordUntil({ playback: token.playback, file, tracks: found.length, packets: 30, explain });
    } finally {
      await encoder.stop();
    }
    const [sent, got] = [await packets(keep, ffmpeg), await packets(file, ffmpeg)];
    assert.equal(got.length, found.length, 'every track is recorded');
    for (const stream of got) {
      assert.equal(sent.filter((whole) => holds(whole, stream)).length, 1, 'the packets are those sent');
    }
    const decoded = await outcome(ffmpeg, ['-v', 'error', '-xerror', '-i', file, '-map', '0', '-f', 'null', '-']);
    assert.deepEqual([decoded.status, decoded.stderr], [0, ''], 'every frame decodes');
    const { tracks } = boxesOf(await readFile(file));
    for (const codec of found) {
      assert.ok(tracks.some((track) => codec.test(track.codec)), `${codec}: ${JSON.stringify(tracks)}`);
    }
  });
}

/** What a port says to these bytes until it hangs up. */
function knock(port, bytes) {
  return new Promise((resolve, reject) => {
    const socket = net.connect(port, '127.0.0.1', () => socket.write(bytes));
    const heard = [];
    socket.on('data', (data) => heard.push(data));
    socket.on('error', () => {}); // A reset is a way to hang up.
    socket.on('close', () => resolve(Buffer.concat(heard)));
    socket.setTimeout(20_000, () => reject(new Error('still open after 20 s')));
  });
}

test('who is silent after its first bytes is hung up on, on both ports', async () => {
  const port = (url) => Number(new URL(url.replace(/^rtmps?:/, 'http:')).port);
  const input = await weir.input('silent');
  const [plain, sealed] = [port(input.urls.rtmp), port(input.urls.rtmps)];
  const c1 = Buffer.concat([Buffer.from([3]), Buffer.alloc(1536)]);
  // A TLS record that promises a handshake message and never brings it.
  const half = Buffer.from([22, 3, 1, 0, 200, 1, 0, 0, 196]);
  const answers = await Promise.all([knock(plain, c1), knock(sealed, half), knock(plain, ''), knock(sealed, '')]);
  assert.equal(answers[0].length, 1 + 2 * 1536, 'S0, S1 and S2');
  const versions = await Promise.all([knock(plain, Buffer.alloc(1537, 6)), knock(sealed, c1)]);
  assert.equal(versions[0].length, 0, 'an unknown version gets no answer');
  assert.equal(versions[1][0], 21, 'plain RTMP gets an alert');
});
