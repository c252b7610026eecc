// The same wire as the Rust side: bytes that weir-moqt wrote are read here as what was meant. The other direction, that
// it accepts the requests pinned in moqt.test.ts, was checked when these were made.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Framer, encodeTrackStatus } from '../src/moqt/message.js';
import { StreamReader } from '../src/moqt/stream.js';
import text from './vectors.hex';

const vectors = new Map(
  text
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => line.split(' ') as [string, string]),
);

function vector(name: string): Uint8Array {
  const hex = vectors.get(name);
  assert.ok(hex, name);
  return new Uint8Array(Buffer.from(hex, 'hex'));
}

test('control messages of the Rust side', () => {
  const largest = { group: 1_795_231_140_017, object: 19 };
  const error = { code: 0x10, retryMs: 2000, reason: 'not_live' };
  const expected = {
    setup: { kind: 'setup', implementation: 'weir' },
    'subscribe-ok': { kind: 'subscribe-ok', alias: 300, largest, mandatory: false },
    // On the wire the end is one past the last object.
    'fetch-ok': { kind: 'fetch-ok', end: { group: largest.group, object: 20 } },
    'status-ok': { kind: 'request-ok', largest },
    'update-ok': { kind: 'request-ok', largest: null },
    'publish-done': { kind: 'publish-done', code: 2, streams: null, reason: 'ended' },
    'request-error': { kind: 'request-error', error },
    goaway: { kind: 'goaway', uri: 'https://b.example/', timeoutMs: 1500 },
  };
  for (const [name, message] of Object.entries(expected)) {
    assert.deepEqual([...new Framer().push(vector(name))], [message], name);
  }
  assert.equal(Buffer.from(encodeTrackStatus(4, ['a', 'bc'], '.c')).toString('hex'), '0d000b04020161026263022e6300');
});

/** What a stream says, objects as `group.object=payload`. */
function read(name: string): unknown[] {
  const reader = new StreamReader();
  const items = [...reader.push(vector(name))].map((item) =>
    item.kind === 'object' ? `${item.group}.${item.object}=${Buffer.from(item.payload).toString('latin1')}` : item,
  );
  reader.finish();
  return items;
}

test('data streams of the Rust side', () => {
  const group = 1_795_231_140_017;
  assert.deepEqual(read('subgroup'), [
    { kind: 'subgroup', alias: 300, group, endOfGroup: true },
    `${group}.0=abc`,
    `${group}.1=a`,
    `${group}.200=`,
    { kind: 'end-of-group', group, object: 201 },
  ]);
  assert.deepEqual(read('subgroup-bare'), [
    { kind: 'subgroup', alias: 2 ** 40, group: 5, endOfGroup: false },
    '5.7=z',
  ]);
  assert.deepEqual(read('fetch'), [
    { kind: 'fetch', request: 2 },
    '100.0=\x00',
    '100.1=\x01',
    '100.5=\x05',
    '100.6=\x06',
    '100.7=\x07',
    '101.0=\x00',
    '105.3=\x03',
    { kind: 'gap', end: { group: 106, object: Infinity }, known: false },
    { kind: 'gap', end: { group: 107, object: 4 }, known: true },
    '107.5=',
  ]);
});
