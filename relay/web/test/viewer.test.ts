// The player's cores without a browser: order of objects, distance to live, glass to glass, catalogs, chunks, URLs.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { mimeOf, parseCatalog } from '../src/viewer/catalog.js';
import { readChunk, readTimescale } from '../src/viewer/chunk.js';
import { GlassToGlass } from '../src/viewer/glass.js';
import { LatencyControl } from '../src/viewer/latency.js';
import { Merge } from '../src/viewer/merge.js';
import { SourceError, parseSource, withToken } from '../src/viewer/source.js';
import { bitrate, milliseconds, sentence, span } from '../src/element/words.js';

const PATIENCE = 200;
const payload = new Uint8Array([1]);

/** Hands out what is in order as `group.object`, a star where a group opens. */
function drain(merge: Merge, now: number): string {
  return [...merge.poll(now, PATIENCE)]
    .map(({ group, object, opens }) => `${group}.${object}${opens ? '*' : ''}`)
    .join(' ');
}

test('a joiner waits for the start of the group, then goes on live', () => {
  const merge = new Merge();
  merge.join({ group: 7, object: 2 });
  merge.push(7, 3, payload, 0);
  assert.equal(drain(merge, 0), '', 'the middle of a group cannot be decoded');
  merge.push(7, 0, payload, 10);
  merge.push(7, 1, payload, 10);
  assert.equal(drain(merge, 10), '7.0* 7.1');
  merge.push(7, 2, payload, 20);
  merge.endFetch();
  merge.push(7, 4, payload, 30);
  assert.equal(drain(merge, 30), '7.2 7.3 7.4');
  merge.endGroup(7, null, 40);
  merge.push(8, 0, payload, 40);
  assert.equal(drain(merge, 40), '8.0*');
  assert.equal(merge.counters.groupsSkipped, 0);
  assert.deepEqual([merge.counters.firstGroup, merge.counters.firstObject], [7, 0]);
});

test('a group that ended while it was fetched does not hold up the next', () => {
  const merge = new Merge();
  merge.join({ group: 7, object: 1 });
  merge.push(8, 0, payload, 0);
  assert.equal(drain(merge, 0), '8.0*', 'the newest group is where a viewer starts');
  merge.push(7, 0, payload, 0);
  merge.push(7, 1, payload, 0);
  merge.endFetch();
  assert.equal(drain(merge, 0), '');
  assert.equal(merge.counters.stale, 2);
});

test('streams that overtake each other come out in order', () => {
  const merge = new Merge();
  merge.push(1, 0, payload, 0);
  merge.endFetch();
  assert.equal(drain(merge, 0), '1.0*');
  merge.push(2, 0, payload, 10);
  merge.push(2, 1, payload, 10);
  assert.equal(drain(merge, 10), '', 'group 1 may still bring something');
  merge.push(1, 1, payload, 20);
  merge.endGroup(1, 2, 20);
  assert.equal(drain(merge, 20), '1.1 2.0* 2.1');
});

test('a stalled group is given up for the newest one when patience ends', () => {
  const merge = new Merge();
  merge.push(1, 0, payload, 0);
  merge.endFetch();
  drain(merge, 0);
  merge.push(2, 0, payload, 100);
  merge.push(3, 0, payload, 150);
  assert.equal(drain(merge, 150), '');
  assert.equal(drain(merge, 350), '3.0*');
  assert.equal(merge.counters.groupsSkipped, 2);
  merge.push(1, 1, payload, 360);
  assert.equal(drain(merge, 360), '', 'what comes too late is not shown');
});

test('a reset group is given up at once', () => {
  const merge = new Merge();
  merge.push(1, 0, payload, 0);
  merge.endFetch();
  drain(merge, 0);
  merge.loseGroup(1, 10);
  merge.push(2, 0, payload, 10);
  assert.equal(drain(merge, 10), '2.0*');
  assert.equal(merge.counters.groupsSkipped, 1);
});

test('an announced group in between gets a moment to arrive', () => {
  const merge = new Merge();
  merge.push(1, 0, payload, 0);
  merge.endFetch();
  merge.endGroup(1, null, 0);
  drain(merge, 0);
  merge.push(2, 1, payload, 10);
  merge.push(3, 0, payload, 20);
  assert.equal(drain(merge, 30), '');
  merge.push(2, 0, payload, 40);
  merge.endGroup(2, 2, 40);
  assert.equal(drain(merge, 40), '2.0* 2.1 3.0*');
});

test('a new session goes on in the same group, or starts anew in another', () => {
  const merge = new Merge();
  merge.push(5, 0, payload, 0);
  merge.push(5, 1, payload, 0);
  drain(merge, 0);
  merge.beginFetch();
  merge.join({ group: 5, object: 3 });
  for (const object of [0, 1, 2, 3]) merge.push(5, object, payload, 10);
  assert.equal(drain(merge, 10), '5.2 5.3', 'nothing is handed out twice');
  merge.join({ group: 2, object: 1 });
  merge.push(2, 0, payload, 20);
  assert.equal(drain(merge, 20), '2.0*', 'a relay that counts anew is followed');
});

test('what does not exist is stepped over', () => {
  const merge = new Merge();
  merge.push(5, 0, payload, 0);
  drain(merge, 0);
  merge.gap({ group: 5, object: 2 }, false);
  merge.push(5, 3, payload, 0);
  assert.equal(drain(merge, 0), '5.3');
});

test('a flood of groups is bounded', () => {
  const merge = new Merge();
  for (let group = 0; group < 10_000; group += 1) merge.push(group, 1, payload, 0);
  assert.ok(merge.counters.groupsSkipped >= 9_984);
  const big = new Uint8Array(1024 * 1024);
  for (let object = 1; object < 100; object += 1) merge.push(10_000, object, big, 0);
  assert.ok(merge.counters.groupsSkipped >= 9_999, 'also by bytes');
});

/** Plays for `seconds` against a source that is `delay` behind, and returns the fill at the end and the jumps. */
function simulate(control: LatencyControl, start: number, seconds: number, delay: number, jitter = 0) {
  let position = start;
  let rate = 1;
  let jumps = 0;
  let seed = 7;
  let end = 0;
  for (let now = 0; now < seconds * 1000; now += 100) {
    for (let chunk = 0; chunk < 3; chunk += 1) {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      const late = (seed / 2 ** 32) * jitter;
      const media = (10_000 + now + chunk * 33) / 1000;
      control.arrival(now + chunk * 33 + delay + late, media, now + chunk * 33);
    }
    end = (10_000 + now) / 1000;
    const advice = control.step({ now: now + 1, position, end });
    rate = advice.rate;
    assert.ok(rate >= 0.95 && rate <= 1.05, `rate ${rate}`);
    if (advice.jump !== null) {
      jumps += 1;
      position = advice.jump;
    }
    position += rate * 0.1;
  }
  return { fill: (end - position + 0.1) * 1000, jumps };
}

test('a player a second behind catches up without a jump', () => {
  const { fill, jumps } = simulate(new LatencyControl(400), 8.8, 60, 50);
  assert.equal(jumps, 0);
  assert.ok(Math.abs(fill - 350) < 60, `fill ${fill}`);
});

test('a player far behind jumps once', () => {
  const { fill, jumps } = simulate(new LatencyControl(400), 5, 30, 50);
  assert.equal(jumps, 1);
  assert.ok(Math.abs(fill - 350) < 60, `fill ${fill}`);
});

test('a player too close slows down until it has its buffer', () => {
  const { fill, jumps } = simulate(new LatencyControl(400), 9.95, 60, 50);
  assert.equal(jumps, 0);
  assert.ok(Math.abs(fill - 350) < 60, `fill ${fill}`);
});

test('jitter and underruns raise the buffer above the target, a step of the timeline does not', () => {
  const control = new LatencyControl(100);
  for (let index = 0; index < 100; index += 1) control.arrival(index * 33 + (index % 10 === 0 ? 200 : 0), index * 0.033, null);
  assert.ok(control.bufferTarget >= 280, `${control.bufferTarget}`);
  const before = control.bufferTarget;
  control.underrun();
  assert.equal(control.bufferTarget, before + 100);
  const stepped = new LatencyControl(100);
  for (let index = 0; index < 100; index += 1) stepped.arrival(index * 33 + (index > 50 ? 6000 : 0), index * 0.033, null);
  assert.equal(stepped.jitter, 0);
});

test('glass to glass is read at the frame shown, also inside a chunk and out of order', () => {
  const glass = new GlassToGlass();
  for (const [media, captured] of [[1, 1000], [1.1, 1100], [1.05, 1050]] as const) glass.capture(media, captured);
  assert.equal(glass.frame(1.05, 1350), 300);
  assert.equal(Math.round(glass.captured(1.07) ?? 0), 1070);
  assert.equal(glass.captured(0.5), null);
  assert.equal(glass.captured(3), null, 'a chunk of long ago says nothing');
  for (let index = 0; index < 99; index += 1) glass.frame(1.1, 1300);
  assert.deepEqual(glass.percentiles(2000), { p50: 200, p99: 200, samples: 100 });
  const history = glass.history(2000);
  assert.equal(history.length, 60);
  assert.equal(history.at(-1), 201);
  assert.equal(history[0], null);
});

const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);

test('a catalog is read, and what is not one is refused', () => {
  const json = {
    version: 1,
    live: true,
    future: {},
    tracks: [
      { name: 'video/720p', kind: 'video', codec: 'avc1.64001f', width: 1280, height: 720, init: 'AAEC' },
      { name: 'audio', kind: 'audio', codec: 'mp4a.40.2', sampleRate: 48000, channels: 2, init: 'AA==' },
      { name: 'chat', kind: 'text', codec: 'x', init: '' },
      { name: 'bad', kind: 'video', codec: 'a";b', init: '' },
      { name: 'video/720p', kind: 'video', codec: 'avc1.64001f', init: '' },
    ],
  };
  const catalog = parseCatalog(bytesOf(JSON.stringify(json)));
  assert.deepEqual(catalog?.tracks.map(({ name, height }) => [name, height]), [['video/720p', 720], ['audio', null]]);
  assert.deepEqual([...(catalog?.tracks[0]?.init ?? [])], [0, 1, 2]);
  assert.equal(catalog?.tracks[0] && mimeOf(catalog.tracks[0]), 'video/mp4; codecs="avc1.64001f"');
  for (const bad of ['', '[]', '{"version":2,"tracks":[]}', '{"version":1}', '{"version":1,"tracks":[']) {
    assert.equal(parseCatalog(bytesOf(bad)), null, bad);
  }
  assert.equal(parseCatalog(new Uint8Array(600_000)), null);
});

function box(type: string, ...content: (number[] | Uint8Array)[]): Uint8Array {
  const body = content.flatMap((part) => [...part]);
  const size = body.length + 8;
  return new Uint8Array([0, 0, size >> 8, size & 255, ...bytesOf(type), ...body]);
}

test('capture, presentation and decode time of a chunk', () => {
  // 2026-11-21T00:00:00.5Z in NTP: 1795219200 + 2208988800 seconds and half of 2^32.
  const seconds = 1_795_219_200 + 2_208_988_800;
  const ntp = [seconds >>> 24, (seconds >>> 16) & 255, (seconds >>> 8) & 255, seconds & 255, 0x80, 0, 0, 0];
  const prft = box('prft', [1, 0, 0, 0x18, 0, 0, 0, 1], ntp, [0, 0, 0, 1, 0, 0, 0, 2]);
  const tfdt = box('tfdt', [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
  const moof = box('moof', box('mfhd', [0, 0, 0, 0, 0, 0, 0, 1]), box('traf', box('tfhd', [0, 0, 0, 0, 0, 0, 0, 1]), tfdt));
  const chunk = new Uint8Array([...prft, ...moof, ...box('mdat', [1, 2, 3])]);
  assert.deepEqual(readChunk(chunk), { capturedMs: 1_795_219_200_500, media: 2 ** 32 + 2, decode: 9 });
  for (let cut = 0; cut < chunk.length; cut += 1) readChunk(chunk.subarray(0, cut));
  assert.deepEqual(readChunk(box('mdat', [1])), { capturedMs: null, media: null, decode: null });
});

test('the timescale of an init segment', () => {
  const mdhd = box('mdhd', [0, 0, 0, 0], new Uint8Array(8), [0, 1, 0x5f, 0x90], new Uint8Array(8));
  const init = new Uint8Array([...box('ftyp', [0]), ...box('moov', box('trak', box('mdia', mdhd)))]);
  assert.equal(readTimescale(init), 90_000);
  assert.equal(readTimescale(init.subarray(0, 20)), null);
});

const token = (claims: object): string => `e30.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.sig`;

test('a playback URL gives namespace and end of token', () => {
  const source = parseSource(`https://relay.example:4443/playback/lv_1?tok=${token({ iss: 'org_ü', exp: 100 })}#x`);
  assert.deepEqual(source.namespace, ['stream', 'org_ü', 'lv_1']);
  assert.equal(source.expiresMs, 100_000);
  assert.ok(!source.url.includes('#'));
  const renewed = withToken(source, token({ iss: 'org_ü', exp: 200 }));
  assert.equal(renewed.expiresMs, 200_000);
  assert.equal(parseSource(`moqt://relay/playback/a?tok=${token({ iss: 'o' })}`).expiresMs, null);
});

test('a link without a token, or with a damaged one, is refused before anything is sent', () => {
  const code = (url: string): string => {
    try {
      parseSource(url);
      return 'fine';
    } catch (error) {
      return error instanceof SourceError ? error.code : 'other';
    }
  };
  assert.equal(code('https://relay/playback/a'), 'auth_failed');
  assert.equal(code('https://relay/playback/a?tok=nonsense'), 'auth_failed');
  assert.equal(code(`https://relay/playback/a?tok=${token({ exp: 1 })}`), 'auth_failed');
  assert.equal(code(`https://relay/other/a?tok=${token({ iss: 'o' })}`), 'bad_url');
  assert.equal(code(`https://relay/playback/../x?tok=${token({ iss: 'o' })}`), 'bad_url');
  assert.equal(code('nonsense'), 'bad_url');
});

test('people are told in words', () => {
  assert.equal(sentence('playing', '', null), null);
  const refused = (reason: string) => sentence('auth failed', reason, null)?.why;
  assert.equal(refused('auth_failed: token_expired'), 'The playback token has expired.');
  assert.equal(refused('auth_failed: token_revoked'), 'The playback token was withdrawn.');
  assert.equal(sentence('reconnecting', 'Opening handshake failed.', 2400)?.next, 'Next try in 2 s.');
  assert.equal(sentence('reconnecting', 'Opening handshake failed.', 2400)?.why, 'The relay cannot be reached.');
  assert.deepEqual([milliseconds(184.4), milliseconds(2510), milliseconds(null)], ['184 ms', '2.51 s', '–']);
  assert.deepEqual([bitrate(2_500_000), bitrate(249_600)], ['2.5 Mb/s', '250 kb/s']);
  assert.deepEqual([span(3599), span(42), span(-1)], ['59 min 59 s', '42 s', 'expired']);
});
