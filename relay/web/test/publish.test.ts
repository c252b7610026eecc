// What a publisher makes and decides: boxes, groups, the bytes of its requests, how much it sends, and what a refusal means.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { streamError } from '../src/moqt/stream-error.js';
import { encodeGroupHead, encodeObjectHead, encodePublish, encodePublishDone } from '../src/moqt/publishing.js';
import { Clock } from '../src/publish/encoders.js';
import { Groups } from '../src/publish/groups.js';
import { type Track, chunk, header } from '../src/publish/mp4.js';
import { Rate } from '../src/publish/rate.js';
import { moved, troubleOf } from '../src/publish/studio.js';

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

const VIDEO: Track = { kind: 'video', timescale: 90_000, width: 640, height: 360, codec: 'avc1.42e01f', description: new Uint8Array([1, 2, 3]) };
const SOUND: Track = { kind: 'audio', timescale: 48_000, channels: 2, sampleRate: 48_000, preSkip: 312 };

/** Boxes of one level. */
function boxes(bytes: Uint8Array): { kind: string; body: Uint8Array }[] {
  const found = [];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 0; at < bytes.length; ) {
    const size = view.getUint32(at);
    assert.ok(size >= 8 && at + size <= bytes.length, 'boxes fit into each other');
    found.push({ kind: Buffer.from(bytes.subarray(at + 4, at + 8)).toString(), body: bytes.subarray(at + 8, at + size) });
    at += size;
  }
  return found;
}

function find(bytes: Uint8Array, ...path: string[]): Uint8Array {
  return path.reduce((within, kind) => {
    const child = boxes(within).find((box) => box.kind === kind);
    assert.ok(child, `${kind} is there`);
    return child.body;
  }, bytes);
}

test('a chunk says where its frame is, when, and whether one can start there', () => {
  const data = new Uint8Array([9, 8, 7]);
  const bytes = chunk({ sequence: 5, decodeTime: 2 ** 40 + 1, duration: 3000, keyframe: true, data });
  assert.deepEqual(boxes(bytes).map((box) => box.kind), ['moof', 'mdat']);
  assert.deepEqual([...find(bytes, 'mdat')], [9, 8, 7]);
  assert.equal(hex(find(bytes, 'moof', 'traf', 'tfdt')), '01000000' + '0000010000000001');
  const trun = find(bytes, 'moof', 'traf', 'trun');
  const view = new DataView(trun.buffer, trun.byteOffset, trun.length);
  assert.deepEqual([view.getUint32(0), view.getUint32(4), view.getUint32(12), view.getUint32(16), view.getUint32(20)], [0x701, 1, 3000, 3, 0x02000000]);
  assert.equal(view.getUint32(8), bytes.length - 3, 'the offset counts from the moof');
});

test('a header holds what the decoder needs', () => {
  const moov = (track: Track): Uint8Array => find(header(track), 'moov', 'trak', 'mdia', 'minf', 'stbl', 'stsd').subarray(8);
  assert.equal(hex(find(find(moov(VIDEO), 'avc1').subarray(78), 'avcC')), '010203');
  assert.equal(hex(find(find(moov(SOUND), 'Opus').subarray(28), 'dOps')), '00020138' + '0000bb80' + '000000');
  const vp9: Track = { ...VIDEO, codec: 'vp09.00.31.08', description: null } as Track;
  assert.equal(hex(find(find(moov(vp9), 'vp09').subarray(78), 'vpcC')), '01000000' + '001f82' + '010101' + '0000');
  assert.throws(() => header({ ...VIDEO, codec: 'hvc1.1' } as Track), /no header/);
});

test('a keyframe opens a group in both tracks, and each group begins with its header', () => {
  const groups = new Groups(100);
  const frame = (kind: 'video' | 'audio', timeUs: number, keyframe = true) =>
    groups.frame(kind, { timeUs, durationUs: 20_000, keyframe, data: new Uint8Array([1]) });
  assert.equal(frame('video', 0), null, 'nothing is known of the track');
  groups.configure('video', VIDEO);
  groups.configure('audio', SOUND);
  assert.equal(frame('video', 0, false), null, 'no group begins inside one');
  const seen = [frame('video', 10), frame('audio', 10), frame('video', 20, false), frame('audio', 20), frame('video', 30), frame('audio', 30)];
  assert.deepEqual(seen.map((o) => [o?.track, o?.group, o?.object]), [
    ['video', 101, 0], ['audio', 101, 0], ['video', 101, 1], ['audio', 101, 1], ['video', 102, 0], ['audio', 102, 0],
  ]);
  const kinds = (at: number): string[] => boxes(seen[at]?.payload ?? new Uint8Array()).map((box) => box.kind);
  assert.deepEqual([kinds(0), kinds(2)], [['ftyp', 'moov', 'moof', 'mdat'], ['moof', 'mdat']]);
  // A new session starts at a group, whatever went before.
  groups.restart();
  assert.equal(frame('video', 40, false), null);
  assert.deepEqual([frame('video', 50)?.object, frame('audio', 50)?.object], [0, 0]);
});

test('sound alone is cut every second, and decode times never stand still', () => {
  const groups = new Groups(0);
  groups.configure('audio', SOUND);
  const cuts = Array.from({ length: 120 }, (_, index) =>
    groups.frame('audio', { timeUs: index * 20_000, durationUs: 20_000, keyframe: true, data: new Uint8Array([1]) }),
  );
  assert.deepEqual(cuts.filter((object) => object?.object === 0).map((object) => object?.group), [1, 2, 3]);
  const times = [5000, 5000, 4000].map((timeUs) => {
    const object = groups.frame('audio', { timeUs: 2_400_000 + timeUs, durationUs: 20_000, keyframe: true, data: new Uint8Array([1]) });
    return Number(BigInt(`0x${hex(find(object?.payload ?? new Uint8Array(), 'moof', 'traf', 'tfdt').subarray(4))}`));
  });
  assert.ok(times.every((time, index) => index === 0 || time > (times[index - 1] ?? 0)), String(times));
});

test('PUBLISH and the streams have the bytes of draft 18', () => {
  const publish = encodePublish({ request: 2, namespace: ['publish', 'lv_1'], track: 'video', alias: 1 });
  assert.equal(hex(publish), '1d0017' + '02' + '02' + '07' + '7075626c697368' + '04' + '6c765f31' + '05' + '766964656f' + '01' + '00');
  assert.equal(hex(encodePublishDone(3)), '0b0003' + '020300');
  assert.equal(hex(encodeGroupHead(1, 7, 2)), '58010702');
  assert.equal(hex(encodeObjectHead(200)), '00' + '80c8');
});

test('a narrow path costs bitrate first, then frames, and both come back', () => {
  const rate = new Rate(3_000_000);
  let nowMs = 0;
  const seen: string[] = [];
  const run = (seconds: number, queuedMs: number, encoderQueue = 0): void => {
    for (const end = nowMs + seconds * 1000; nowMs < end; nowMs += 250) {
      const setting = rate.look({ nowMs, queuedMs, encoderQueue });
      if (setting) seen.push(`${Math.round(setting.bitrate / 1000)}/${setting.every}`);
    }
  };
  run(10, 50);
  assert.deepEqual(seen, [], 'a path with room is left alone');
  run(20, 800);
  assert.deepEqual(seen.splice(0), ['2100/1', '1470/1', '1029/1', '720/1', '504/1', '500/1', '500/2', '500/4']);
  run(10, 200);
  assert.deepEqual(seen, [], 'neither well nor bad: nothing moves');
  run(60, 10);
  assert.deepEqual(seen.splice(0), ['500/2', '500/1', '625/1', '781/1', '977/1', '1221/1', '1526/1', '1907/1', '2384/1', '2980/1', '3000/1']);
  run(2, 0, 5);
  assert.deepEqual(seen, ['2100/1', '1470/1'], 'an encoder that is too slow counts like a path');
});

test('tracks whose stamps have different zeros meet on one clock', () => {
  const [picture, sound] = [new Clock(), new Clock()];
  // Captured together, 20 ms apart; pictures arrive 30 ms late, once 200, sound 10.
  for (let index = 0; index < 40; index += 1) {
    const captured = 1_000_000 + index * 20_000;
    const video = picture.toUs(index * 20_000, captured + (index === 3 ? 200_000 : 30_000));
    const audio = sound.toUs(77_000_000 + index * 20_000, captured + 10_000);
    if (index > 16) assert.equal(video - audio, 20_000);
  }
});

test('what a node says at the end is told in words, and a GOAWAY moves host and port alone', () => {
  assert.match(troubleOf('auth_failed: stream_key_invalid').message, /^Stream key refused\. Copy the key again/);
  assert.equal(troubleOf('input_busy: another publisher took over').code, 'input_busy');
  assert.equal(troubleOf("codec_unsupported: video has codec 'mp4v'").message, "The node does not take this: video has codec 'mp4v'.");
  assert.equal(troubleOf('').code, 'unreachable');
  assert.equal(troubleOf('Opening handshake failed.').code, 'unreachable');
  const home = 'https://a:4443/publish/lv_1?sk=k';
  assert.equal(moved(home, 'moqt://b:9/x?sk=no'), 'https://b:9/publish/lv_1?sk=k');
  assert.equal(moved(home, ''), home);
  assert.equal(moved(home, 'http://b'), null);
});

test('a stream is reset with its code however a browser makes the error, and without one where it cannot', () => {
  const made = (constructor: unknown): unknown => {
    Object.assign(globalThis, { WebTransportError: constructor });
    return streamError(7);
  };
  class AsSpecified extends Error {
    readonly streamErrorCode: number;
    constructor(message: string, init: { streamErrorCode: number }) {
      super(message);
      this.streamErrorCode = init.streamErrorCode;
    }
  }
  class AsInChromium extends Error {
    readonly streamErrorCode: number;
    constructor(init: { streamErrorCode: number }) {
      if (typeof init !== 'object') throw new TypeError('The provided value is not of type WebTransportErrorInit');
      super();
      this.streamErrorCode = init.streamErrorCode;
    }
  }
  const refusing = class {
    constructor() {
      throw new TypeError('no');
    }
  };
  assert.deepEqual([AsSpecified, AsInChromium].map((one) => (made(one) as AsSpecified).streamErrorCode), [7, 7]);
  assert.deepEqual([made(refusing), made(undefined)], [undefined, undefined]);
});
