// The wire of draft 18 seen from a viewer: integers, messages, data streams cut at every byte, and the session's stories.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Builder, Cursor, ProtocolError } from '../src/moqt/cursor.js';
import { Framer, encodeJoiningFetch, encodeSetup, encodeSubscribe } from '../src/moqt/message.js';
import { type Event, type Output, Session } from '../src/moqt/session.js';
import { type Item, StreamReader } from '../src/moqt/stream.js';

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const bytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text.replaceAll(' ', ''), 'hex'));

test('vi64: every length boundary survives, long forms are read', () => {
  for (let size = 1; size <= 8; size += 1) {
    for (const value of [2 ** (7 * size) - 1, 2 ** (7 * size)]) {
      if (!Number.isSafeInteger(value)) continue;
      const written = new Builder().int(value).done();
      const cursor = new Cursor(written);
      assert.equal(cursor.int(), value);
      assert.equal(cursor.left, 0);
      for (let cut = 0; cut < written.length; cut += 1) {
        const short = new Cursor(written.subarray(0, cut));
        short.int();
        assert.ok(short.short, `${value} cut at ${cut}`);
      }
    }
  }
  const read = (text: string): number => new Cursor(bytes(text)).int();
  assert.equal(read('8025'), 37);
  assert.equal(read('ff 0000000000000025'), 37);
  assert.equal(read('ff ffffffffffffffff'), Infinity);
  assert.equal(read('fe 1fffffffffffff'), Number.MAX_SAFE_INTEGER, 'seven bytes behind a full first byte');
  assert.equal(hex(new Builder().int(0x2f00).done()), 'af00');
});

test('requests have the bytes of the draft', () => {
  assert.equal(hex(encodeSetup('w')), 'af00 0003 07 01 77'.replaceAll(' ', ''));
  const subscribe = encodeSubscribe({ request: 2, namespace: ['a', 'bc'], track: '.c', priority: 1 });
  assert.equal(hex(subscribe), '03 0010 02 02 01 61 02 6263 02 2e63 02 20 01 01 01 02'.replaceAll(' ', ''));
  assert.equal(hex(encodeJoiningFetch(4, 2, 0, 128)), '16 0007 04 02 02 00 01 20 80'.replaceAll(' ', ''));
});

/** Pushes `whole` in pieces of `size` bytes and collects what comes out. */
function pieces<T>(whole: Uint8Array, size: number, push: (part: Uint8Array) => Iterable<T>): T[] {
  const found: T[] = [];
  for (let at = 0; at < whole.length; at += size) found.push(...push(whole.slice(at, at + size)));
  return found;
}

test('control messages are the same however they are cut', () => {
  // SUBSCRIBE_OK alias 7 largest {300, 4}; REQUEST_ERROR 0x10 no retry "gone"; PUBLISH_DONE 2, unknown count, "".
  const whole = bytes('04 0006 07 01 09 812c 04  05 0007 10 00 04 676f6e65  0b 000b 02 ff3fffffffffffffff 00');
  for (const size of [1, 2, 3, 5, 100]) {
    const framer = new Framer();
    assert.deepEqual(
      pieces(whole, size, (part) => framer.push(part)),
      [
        { kind: 'subscribe-ok', alias: 7, largest: { group: 300, object: 4 }, mandatory: false },
        { kind: 'request-error', error: { code: 0x10, retryMs: null, reason: 'gone' } },
        { kind: 'publish-done', code: 2, streams: null, reason: '' },
      ],
    );
    assert.equal(framer.pending, 0);
  }
});

test('a message that lies about itself ends the session', () => {
  for (const [why, text] of [
    ['trailing bytes', '0b 0004 02 00 00 00'],
    ['ends inside a field', '0b 0002 02 00'],
    ['unknown type', '3f 0000'],
    ['unknown parameter', '04 0004 07 01 3b 00'],
    ['longer than any', '04 ffff'],
    ['reason above its limit', '05 0005 10 00 a000 00'],
  ] as const) {
    assert.throws(() => [...new Framer().push(bytes(text))], ProtocolError, why);
  }
});

const SUBGROUP = bytes(
  // type: base, properties, end of group, first object; alias 7, group 300, priority 2
  '59 07 812c 02' +
    // object 0, no properties, 3 bytes; object 1 (delta 0), 2 bytes of properties, 1 byte; object 5 empty, status 0
    '00 00 03 616263' +
    '00 02 0201 01 64' +
    '03 00 00 00',
);

test('a subgroup stream yields the same objects however it is cut', () => {
  for (let size = 1; size <= SUBGROUP.length; size += 1) {
    const reader = new StreamReader();
    const items = pieces<Item>(SUBGROUP, size, (part) => reader.push(part));
    assert.deepEqual(
      items.map((item) => (item.kind === 'object' ? [item.object, Buffer.from(item.payload).toString()] : item)),
      [{ kind: 'subgroup', alias: 7, group: 300, endOfGroup: true }, [0, 'abc'], [1, 'd'], [5, '']],
    );
    reader.finish();
  }
});

test('a stream that ends inside an object is refused', () => {
  const reader = new StreamReader();
  assert.equal([...reader.push(SUBGROUP.subarray(0, 10))].length, 1);
  assert.throws(() => reader.finish(), ProtocolError);
});

test('a fetch stream counts from the object before', () => {
  const whole = bytes(
    // request 4; {300, 0} absolute with priority; next object; +3; a gap to the end of 302; then group +1, object 0
    '05 04' +
      '1c 812c 00 02 01 61' +
      '00 01 62' +
      '04 03 01 63' +
      '810c 812e ffffffffffffffffff 00' +
      '0c 00 00 01 64',
  );
  for (let size = 1; size <= whole.length; size += 1) {
    const reader = new StreamReader();
    const items = pieces<Item>(whole, size, (part) => reader.push(part));
    assert.deepEqual(
      items.map((item) => (item.kind === 'object' ? [item.group, item.object, item.payload[0]] : item)),
      [
        { kind: 'fetch', request: 4 },
        [300, 0, 0x61],
        [300, 1, 0x62],
        [300, 4, 0x63],
        { kind: 'gap', end: { group: 302, object: Infinity }, known: false },
        [303, 0, 0x64],
      ],
    );
  }
});

test('hostile lengths and types cost nothing and are refused', () => {
  for (const text of [
    '59 07 812c 02 00 00 ff00ffffffffffffff', // an object of 2^56 bytes
    '59 07 812c 02 00 f0ffffffff', // properties of 4 GB
    '59 07 ffffffffffffffffff 02 00', // group 2^64-1
    '05 04 00 01 62', // a first fetch object that refers to another
    '7e 00', // subgroup mode 3
    '3fff', // no such stream
  ]) {
    assert.throws(() => [...new StreamReader().push(bytes(text))], ProtocolError, text);
  }
});

test('random bytes never do worse than a refusal', () => {
  let seed = 20261121;
  const random = (below: number): number => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    return Math.floor((seed / 2 ** 32) * below);
  };
  for (let round = 0; round < 3000; round += 1) {
    const noise = SUBGROUP.slice();
    for (let flips = random(4) + 1; flips > 0; flips -= 1) noise[random(noise.length)] = random(256);
    for (const push of [(b: Uint8Array) => new StreamReader().push(b), (b: Uint8Array) => new Framer().push(b)]) {
      try {
        for (const item of push(noise)) void item;
      } catch (error) {
        assert.ok(error instanceof ProtocolError, `seed 20261121 round ${round}: ${String(error)}`);
      }
    }
  }
});

function outputs(session: Session): Output[] {
  const all: Output[] = [];
  for (let next = session.pollOutput(); next; next = session.pollOutput()) all.push(next);
  return all;
}

function events(session: Session): Event[] {
  const all: Event[] = [];
  for (let next = session.pollEvent(); next; next = session.pollEvent()) all.push(next);
  return all;
}

/** A session that has asked for a track with a joining FETCH, and the streams of both requests. */
function joined() {
  const session = new Session('test');
  const subscription = session.subscribe(['stream', 'o', 'i'], 'video', 2);
  const fetch = session.fetchJoining(subscription, 0, 2);
  const opened = outputs(session).filter((output) => output.kind === 'open');
  const [, subscribeStream, fetchStream] = opened.map((output) => output.stream);
  assert.ok(subscribeStream !== undefined && fetchStream !== undefined);
  return { session, subscription, fetch, subscribeStream, fetchStream };
}

test('requests are pipelined behind SETUP', () => {
  const session = new Session('test');
  session.fetchJoining(session.subscribe(['a'], 'b', 0), 0, 0);
  assert.deepEqual(
    outputs(session).map((output) => (output.kind === 'open' ? output.dir : output.kind)),
    ['uni', 'write', 'bidi', 'write', 'bidi', 'write'],
  );
});

test('data that overtakes SUBSCRIBE_OK is kept and delivered in order', () => {
  const { session, subscription, subscribeStream } = joined();
  const stream = session.accept();
  session.handleStream(stream, SUBGROUP.slice(0, 13), false);
  session.handleStream(stream, SUBGROUP.slice(13), true);
  assert.deepEqual(events(session), []);
  session.handleStream(subscribeStream, bytes('04 0006 07 01 09 812c 04'), false);
  assert.deepEqual(
    events(session).map((event) => [event.kind, 'object' in event ? event.object : null]),
    [['subscribed', null], ['object', 0], ['object', 1], ['object', 5], ['group-end', null]],
  );
  assert.equal(subscription, 0);
});

test('more early data than the limit is turned away, and the session lives', () => {
  const session = new Session('test', { streams: 8, pendingStreams: 2, pendingBytes: 40 });
  outputs(session);
  for (let index = 0; index < 3; index += 1) session.handleStream(session.accept(), SUBGROUP.slice(0, 12), false);
  assert.deepEqual(outputs(session).map((output) => output.kind), ['stop']);
  for (let index = 0; index < 20; index += 1) session.accept();
  assert.ok(outputs(session).every((output) => output.kind === 'stop'));
});

test('a refused subscription and its fetch both say so', () => {
  const { session, subscription, fetch, subscribeStream, fetchStream } = joined();
  session.handleStream(subscribeStream, bytes('05 0007 10 00 04 676f6e65'), true);
  session.handleStream(fetchStream, bytes('05 0003 32 00 00'), true);
  assert.deepEqual(
    events(session).map((event) => [event.kind, 'request' in event ? event.request : null]),
    [['refused', subscription], ['refused', fetch]],
  );
});

test('a fetch whose request stream ends first still delivers', () => {
  const { session, fetch, fetchStream } = joined();
  session.handleStream(fetchStream, bytes('18 0005 00 812c 05 00'), true);
  session.handleStream(session.accept(), bytes('05 02 1c 812c 00 02 01 61'), true);
  assert.deepEqual(events(session).map((event) => event.kind), ['fetching', 'object', 'fetch-end']);
  assert.equal(fetch, 2);
});

test('a reset group is told, a reset control stream ends the session', () => {
  const { session, subscribeStream } = joined();
  session.handleStream(subscribeStream, bytes('04 0002 07 00'), false);
  const stream = session.accept();
  session.handleStream(stream, SUBGROUP.slice(0, 12), false);
  session.handleReset(stream);
  assert.deepEqual(events(session).map((event) => event.kind), ['subscribed', 'object', 'group-lost']);
  const control = session.accept();
  session.handleStream(control, bytes('af00 0003 07 01 77'), false);
  assert.deepEqual(events(session), [{ kind: 'setup', implementation: 'w' }]);
  session.handleReset(control);
  const close = outputs(session).find((output) => output.kind === 'close');
  assert.equal(close?.kind === 'close' && close.code, 3);
});

test('a token can be renewed on the stream of its subscription', () => {
  const { session, subscription, subscribeStream } = joined();
  session.handleStream(subscribeStream, bytes('04 0002 07 00'), false);
  session.renewToken(subscription, 'ey');
  const [write] = outputs(session);
  assert.equal(write?.kind === 'write' && hex(write.data), '02 0008 04 01 03 04 03 00 6579'.replaceAll(' ', ''));
  session.handleStream(subscribeStream, bytes('07 0001 00'), false);
  assert.deepEqual(events(session).map((event) => event.kind), ['subscribed']);
});
