// Weir between programs that are not ours: two generations of ffmpeg publish, `weir play` records, ffprobe, ffmpeg and
// mp4box judge the file. No browser here.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { after, before, test } from 'node:test';

import { Encoder, FFMPEGS } from '../e2e/harness/encoder.mjs';
import { boxesOf } from '../e2e/harness/mp4box.mjs';
import { BINARY, LISTENERS, outcome, Weir } from '../e2e/harness/weir.mjs';
import { waitFor } from '../e2e/harness/wait.mjs';
import { recordUntil } from './harness/recording.mjs';

let weir;

before(async () => {
  weir = await Weir.start();
});

after(async () => {
  await weir?.stop();
});

const isLive = (id) => weir.broadcastState(id) === 'live';

/** Plays a broadcast into a file with our own client. */
async function record(playback, name, packets = 60) {
  const file = path.join(weir.dataDir, `${name}.mp4`);
  const report = await recordUntil({ playback, file, packets, explain: () => weir.logLines.slice(-3000) });
  return { file, report };
}

async function probe(file) {
  const { status, stdout, stderr } = await outcome('ffprobe', [
    ...['-v', 'error', '-print_format', 'json', '-show_streams', '-show_packets', file],
  ]);
  assert.equal(status, 0, stderr);
  assert.equal(stderr, '', 'ffprobe has nothing to complain about');
  return JSON.parse(stdout);
}

for (const [name, ffmpeg] of Object.entries(FFMPEGS)) {
  for (const bFrames of [false, true]) {
    test(`${name}${bFrames ? ' with B-frames' : ''}: recorded by weir play, read by ffprobe, ffmpeg and mp4box`, async (context) => {
      const input = await weir.input(name);
      const token = await weir.token(input.id);
      const encoder = Encoder.start(input.urls.rtmp, { ffmpeg, bFrames });
      try {
        await waitFor('the input is live', () => isLive(input.id), { explain: () => weir.logLines.slice(-3000) });
        const { file, report } = await record(token.playback, `${name}-${bFrames}`.replace(' ', '-'));
        context.diagnostic(report.trim().split('\n').slice(-6).join(' | '));

        const { streams, packets } = await probe(file);
        const video = streams.find((stream) => stream.codec_type === 'video');
        const audio = streams.find((stream) => stream.codec_type === 'audio');
        assert.deepEqual([video.codec_name, video.width, video.height], ['h264', 640, 360]);
        assert.deepEqual([audio.codec_name, audio.sample_rate, audio.channels], ['aac', '48000', 2]);
        assert.equal(video.has_b_frames > 0, bFrames);

        for (const stream of [video, audio]) {
          const own = packets.filter((packet) => packet.stream_index === stream.index);
          const times = own.map((packet) => Number(packet.dts));
          assert.ok(times.every((dts, index) => index === 0 || dts > times[index - 1]), 'decode times rise');
        }
        const reordered = packets.filter((packet) => packet.stream_index === video.index && packet.pts !== packet.dts);
        assert.equal(reordered.length > 0, bFrames, 'composition offsets are kept');
        assert.match(packets.find((packet) => packet.stream_index === video.index).flags, /K/, 'starts at a keyframe');

        const decoded = await outcome('ffmpeg', ['-v', 'error', '-xerror', '-i', file, '-f', 'null', '-']);
        assert.deepEqual([decoded.status, decoded.stderr], [0, ''], 'every frame decodes');

        const { tracks, fragments } = boxesOf(await readFile(file));
        assert.equal(tracks.length, 2);
        assert.ok(tracks.some((track) => /^avc1\./.test(track.codec)), JSON.stringify(tracks));
        assert.ok(tracks.some((track) => track.codec === 'mp4a.40.2'), JSON.stringify(tracks));
        assert.ok(fragments > 60);
      } finally {
        await encoder.stop({ abort: true });
      }
    });
  }
}

test('the same address plays over raw QUIC', async () => {
  const input = await weir.input('raw');
  const token = await weir.token(input.id);
  const encoder = Encoder.start(input.urls.rtmp);
  try {
    await waitFor('the input is live', () => isLive(input.id), { explain: () => weir.logLines.slice(-3000) });
    const { file } = await record(token.playback.replace(/^https:/, 'moqt:'), 'raw', 30);
    const { streams } = await probe(file);
    assert.deepEqual(streams.map((stream) => stream.codec_type).sort(), ['audio', 'video']);
  } finally {
    await encoder.stop({ abort: true });
  }
});

test('a wrong key, a missing key and an unknown input are refused alike', async () => {
  const input = await weir.input('refusals');
  const right = new URL(input.urls.rtmp);
  const address = (change) => {
    const url = new URL(right);
    change(url);
    return url.href;
  };
  const refusals = {
    wrong: address((url) => url.searchParams.set('sk', `sk_live_${'a'.repeat(32)}`)),
    missing: address((url) => url.searchParams.delete('sk')),
    unknown: address((url) => (url.pathname = `/live/lv_${'a'.repeat(20)}`)),
  };
  const seen = {};
  for (const [name, url] of Object.entries(refusals)) {
    const encoder = Encoder.start(url);
    const { code, stderr } = await encoder.exited;
    assert.notEqual(code, 0, `${name}: ffmpeg must be told`);
    seen[name] = stderr.split('\n').filter((line) => /NetStream|BadName|Server error|not authori/i.test(line));
    seen[name] = seen[name].map((line) => line.replace(/0x[0-9a-f]+/g, '0x'));
  }
  assert.notDeepEqual(seen.wrong, [], 'the refusal has a text');
  assert.deepEqual(seen.unknown, seen.wrong);
  assert.deepEqual(seen.missing, seen.wrong);
  assert.equal(isLive(input.id), false);
});

test('a rotated key replaces the old one beside the running node', async () => {
  const input = await weir.input('rotation');
  const rotated = await weir.command('input', 'rotate-key', input.id);
  weir.secret(rotated.stream_key);
  const old = Encoder.start(input.urls.rtmp);
  assert.notEqual((await old.exited).code, 0, 'the old key is refused');
  const fresh = Encoder.start(input.urls.rtmp.replace(input.stream_key, rotated.stream_key));
  try {
    await waitFor('the new key is taken', () => isLive(input.id), { explain: () => weir.logLines.slice(-3000) });
  } finally {
    await fresh.stop({ abort: true });
  }
});

test('weir play says why it was refused', async () => {
  const input = await weir.input('play refused');
  const { playback } = await weir.token(input.id);
  const played = await outcome(BINARY, ['play', playback.slice(0, -6), '--duration', '1', '-o', '/dev/null', '--insecure']);
  assert.notEqual(played.status, 0);
  assert.match(played.stderr, /auth_failed/);
  weir.assertNoSecretIn(played.stderr);
});

test('a port in use is one clear line', async () => {
  const args = ['up', '--data-dir', path.join(weir.dataDir, 'second'), '--http', `127.0.0.1:${weir.ready.http.split(':').at(-1)}`];
  const others = LISTENERS.slice(1).flatMap((flag) => [flag, '127.0.0.1:0']);
  const { status, stderr } = await outcome(BINARY, [...args, ...others]);
  assert.notEqual(status, 0);
  const errors = stderr.split('\n').filter((line) => line.startsWith('error'));
  assert.equal(errors.length, 1, stderr);
  assert.match(errors[0], /in use/);
});

test('health and metrics are there, without secrets', async () => {
  const health = await fetch(`${weir.http}/healthz`);
  assert.equal(health.status, 200);
  const metrics = await (await fetch(`${weir.http}/metrics`)).text();
  assert.match(metrics, /^# HELP /m);
  assert.match(metrics, /^# EOF$/m);
  weir.assertNoSecretIn(metrics);
});
