// A viewer that is sent to another relay: which addresses it takes, how it learns the certificate there, and an engine
// between two connections that exist in memory only.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { type Event, Session } from '../src/moqt/session.js';
import type { Ending, Link } from '../src/viewer/connection.js';
import { Engine } from '../src/viewer/engine.js';
import { MOVES_PER_MINUTE_MAX, MoveLimit, apart, destinationOf, optionsFor, patience, spread } from '../src/viewer/move.js';
import type { EngineOptions, FromEngine } from '../src/viewer/protocol.js';

const token = `e30.${Buffer.from(JSON.stringify({ iss: 'org_a' })).toString('base64url')}.sig`;
const here = `https://a.example:4443/playback/lv_1?tok=${token}`;
const source = { url: here, id: 'lv_1', namespace: ['stream', 'org_a', 'lv_1'], expiresMs: null };
const HASH = 'ab'.repeat(32);

test('a GOAWAY gives host, port and fingerprint, and path and token stay', () => {
  const path = `/playback/lv_1?tok=${token}`;
  for (const [uri, url, certificate] of [
    ['', here, null],
    ['https://b.example:9', `https://b.example:9${path}`, null],
    ['https://b.example', `https://b.example${path}`, null],
    ['moqt://b.example:9/', `https://b.example:9${path}`, null],
    [`https://[2001:db8::1]:9/x?tok=y#cert-sha256=${HASH.toUpperCase()}`, `https://[2001:db8::1]:9${path}`, HASH],
    ['https://b.example:9/#cert-sha256=12', `https://b.example:9${path}`, null],
  ] as const) {
    const to = destinationOf(here, uri);
    assert.deepEqual([to?.url, to?.certificateSha256], [url, certificate], uri);
  }
  for (const bad of ['b.example', 'http://b.example', 'wss://b.example', 'javascript:alert(1)', 'moqt://']) {
    assert.equal(destinationOf(here, bad), null, bad);
  }
});

test('a pinned certificate is taken from the address, else asked for, else kept', async () => {
  const options: EngineOptions = { source, certificateSha256: 'old', certificateUrl: 'https://page/certificate.sha256' };
  const asked: string[] = [];
  const learn = async (uri: string, answer: string | null, from = options): Promise<EngineOptions> => {
    const to = destinationOf(here, uri);
    assert.ok(to);
    return optionsFor(from, to, async (url) => {
      asked.push(url);
      return answer;
    });
  };
  assert.equal((await learn(`https://b:9/#cert-sha256=${HASH}`, null)).certificateSha256, HASH);
  assert.deepEqual(asked, []);
  assert.equal((await learn('https://b:9', HASH)).certificateSha256, HASH);
  assert.equal((await learn('https://b:9', null)).certificateSha256, 'old');
  assert.deepEqual(asked, Array(2).fill('https://b:9/certificate.sha256'));
  assert.equal((await learn('', HASH)).certificateUrl, 'https://page/certificate.sha256', 'the same host');
  const trusted = await learn('https://b:9', HASH, { ...options, certificateSha256: null });
  assert.deepEqual([trusted.certificateSha256, trusted.certificateUrl], [null, null], 'an authority vouches for it');
});

test('moves are bounded, spread and patient within the time there is', () => {
  const limit = new MoveLimit();
  for (let index = 0; index < MOVES_PER_MINUTE_MAX; index += 1) assert.ok(limit.allow(index));
  assert.equal(limit.allow(59_999), false);
  assert.ok(limit.allow(60_000));
  assert.deepEqual([spread(30_000, 1), spread(2000, 1), spread(0, 0.5)], [1000, 200, 500]);
  assert.deepEqual([patience(4000), patience(600_000), patience(0)], [3000, 15_000, 15_000]);
  assert.deepEqual([apart(5, 69), apart(5, 70), apart(1_795_000_000_000, 12)], [false, true, true]);
});

// An engine between connections in memory.

class FakeSource extends EventTarget {
  static isTypeSupported(): boolean {
    return true;
  }
}
(globalThis as { MediaSource?: unknown }).MediaSource = FakeSource;

class FakeLink implements Link {
  readonly session = new Session('test');
  readonly ended: Promise<Ending>;
  end!: (ending: Ending) => void;
  accept!: () => void;
  refuse!: (error: Error) => void;
  closed = false;
  #ready: Promise<void>;

  constructor(
    readonly options: EngineOptions,
    readonly emit: (event: Event) => void,
  ) {
    this.ended = new Promise((resolve) => (this.end = resolve));
    this.#ready = new Promise((resolve, reject) => {
      this.accept = resolve;
      this.refuse = reject;
    });
  }

  ready(): Promise<void> {
    return this.#ready;
  }

  pump(): void {
    while (this.session.pollOutput()) {
      // Nobody reads what is sent.
    }
  }

  close(code: number, reason: string): void {
    this.closed = true;
    this.end({ code, reason });
  }
}

async function until(what: string, holds: () => boolean): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!holds()) {
    assert.ok(performance.now() < deadline, `not within 10 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const catalog = new TextEncoder().encode(
  JSON.stringify({ version: 1, live: true, tracks: [{ name: 'video/1', kind: 'video', codec: 'avc1.64001f', init: 'AAEC' }] }),
);

class Story {
  links: FakeLink[] = [];
  posts: FromEngine[] = [];
  engine = new Engine(
    (message) => this.posts.push(message),
    (options, emit) => {
      const link = new FakeLink(options, emit);
      this.links.push(link);
      return link;
    },
  );

  constructor(context: { after(end: () => void): void }, addresses: string[] = []) {
    // Also after a failure: its timers would keep the process.
    context.after(() => this.engine.handle({ kind: 'stop' }));
    this.engine.handle({ kind: 'start', options: { source, certificateSha256: null, certificateUrl: null, addresses } });
  }

  link(index: number): FakeLink {
    const link = this.links[index];
    assert.ok(link);
    return link;
  }

  /** Objects of the video track over a connection, by the request of its kind. */
  objects(index: number, request: number, ...places: [number, number][]): void {
    for (const [group, object] of places) {
      this.link(index).emit({ kind: 'object', request, group, object, payload: new Uint8Array([1]) });
    }
  }

  /** Request ids count in twos: catalog and its FETCH, then the track and its FETCH. */
  readonly video = 4;
  readonly fetch = 6;

  /** Watches group 7 up to its third object over the first connection. */
  async watch(): Promise<void> {
    await until('a connection', () => this.links.length === 1);
    this.link(0).accept();
    this.link(0).emit({ kind: 'object', request: 0, group: 1, object: 0, payload: catalog });
    this.join(0, [7, 1]);
    this.objects(0, this.fetch, [7, 0], [7, 1]);
    this.link(0).emit({ kind: 'fetch-end', request: this.fetch, complete: true });
    this.objects(0, this.video, [7, 2]);
    assert.equal(this.shown, 3);
  }

  join(index: number, [group, object]: [number, number]): void {
    this.link(index).emit({ kind: 'subscribed', request: this.video, largest: { group, object } });
  }

  goaway(uri: string, timeoutMs: number): void {
    this.link(0).emit({ kind: 'goaway', uri, timeoutMs });
  }

  get counters() {
    const lane = this.engine.lanes.get('video');
    assert.ok(lane);
    return lane.merge.counters;
  }

  get shown(): number {
    return this.counters.objects;
  }

  /** The account that the page gets. */
  async stats() {
    const from = this.posts.length;
    const found = (): FromEngine | undefined => this.posts.slice(from).find(({ kind }) => kind === 'stats');
    await until('statistics', () => found() !== undefined);
    const message = found();
    assert.ok(message?.kind === 'stats');
    return message.stats;
  }

  phases(): string[] {
    return this.posts.flatMap((message) => (message.kind === 'phase' ? [message.phase] : []));
  }
}

test('a viewer that is sent away watches both connections until the next one has caught up', async (context) => {
  const story = new Story(context);
  await story.watch();
  story.goaway(`https://b.example:9/#cert-sha256=${HASH}`, 2000);
  await until('the next connection', () => story.links.length === 2);
  assert.equal(story.link(1).options.source.url, `https://b.example:9/playback/lv_1?tok=${token}`);
  assert.equal(story.link(1).options.certificateSha256, HASH);
  story.link(1).accept();
  story.objects(0, story.video, [7, 3]);
  story.join(1, [8, 0]);
  story.objects(1, story.fetch, [8, 0]);
  story.link(1).emit({ kind: 'fetch-end', request: story.fetch, complete: true });
  story.objects(1, story.video, [8, 1]);
  assert.equal(story.link(0).closed, false, 'group 7 is not over');
  story.objects(0, story.video, [7, 4]);
  story.link(0).emit({ kind: 'group-end', request: story.video, group: 7, object: 5 });
  assert.equal(story.link(0).closed, true);
  story.objects(0, story.video, [8, 2]);
  story.objects(1, story.video, [8, 2], [8, 3]);
  assert.equal(story.shown, 9, 'each object once');
  assert.deepEqual([story.counters.groupsSkipped, story.counters.lastObject], [0, 3]);
  const stats = await story.stats();
  assert.deepEqual([stats.moves, stats.reconnects], [1, 0]);
  assert.deepEqual(story.phases(), ['connecting', 'live'], 'nothing of it is to be seen');
});

test('a current connection that ends early is gone on with where it stopped', async (context) => {
  const story = new Story(context);
  await story.watch();
  story.goaway('https://b.example:9', 2000);
  await until('the next connection', () => story.links.length === 2);
  story.link(1).accept();
  story.link(0).end({ code: 0x10, reason: 'late' });
  story.join(1, [7, 4]);
  story.objects(1, story.fetch, [7, 0], [7, 1], [7, 2], [7, 3], [7, 4]);
  story.link(1).emit({ kind: 'fetch-end', request: story.fetch, complete: true });
  story.objects(1, story.video, [7, 5]);
  assert.equal(story.shown, 6);
  assert.equal((await story.stats()).moves, 1);
  assert.deepEqual(story.phases(), ['connecting', 'live']);
});

test('a next relay that refuses is left, and is where the viewer goes once the current one has closed', async (context) => {
  const story = new Story(context);
  await story.watch();
  story.goaway('https://b.example:9', 1000);
  await until('the next connection', () => story.links.length === 2);
  story.link(1).refuse(new Error('503'));
  await until('it is left', () => story.link(1).closed);
  story.objects(0, story.video, [7, 3]);
  assert.deepEqual([story.shown, story.link(0).closed], [4, false]);
  story.link(0).end({ code: 0x10, reason: 'late' });
  await until('another try', () => story.links.length >= 3);
  assert.ok(story.links.slice(2).every(({ options }) => options.source.url.startsWith('https://b.example:9/')));
  assert.equal((await story.stats()).moves, 0);
});

test('a relay that counts its groups anew is followed at once', async (context) => {
  const story = new Story(context);
  await story.watch();
  story.goaway('', 2000);
  await until('the next connection', () => story.links.length === 2);
  assert.equal(story.link(1).options.source.url, here, 'no address is the same address');
  story.link(1).accept();
  story.join(1, [500, 1]);
  assert.equal(story.link(0).closed, true);
  story.objects(1, story.fetch, [500, 0], [500, 1]);
  story.link(1).emit({ kind: 'fetch-end', request: story.fetch, complete: true });
  story.objects(1, story.video, [500, 2]);
  assert.deepEqual([story.shown, story.counters.lastGroup], [6, 500]);
});

test('an address that cannot be used leaves the viewer where it is', async (context) => {
  const story = new Story(context);
  await story.watch();
  story.goaway('http://b.example', 100);
  await story.stats();
  story.objects(0, story.video, [7, 3]);
  assert.deepEqual([story.links.length, story.shown], [1, 4]);
});

const B = `https://b.example:9/#cert-sha256=${HASH}`;

/** The first connection speaks in the middle of group 7, then says nothing more. */
async function silenced(context: { after(end: () => void): void }): Promise<Story> {
  const story = new Story(context, [B]);
  await story.watch();
  await until('another connection', () => story.links.length === 2);
  return story;
}

test('a relay that answers nothing any more is left for another address, and each object is shown once', async (context) => {
  const story = await silenced(context);
  assert.equal(story.link(1).options.source.url, `https://b.example:9/playback/lv_1?tok=${token}`);
  assert.equal(story.link(0).closed, false, 'it may still be there');
  story.link(1).accept();
  story.join(1, [7, 4]);
  story.objects(1, story.fetch, [7, 0], [7, 1], [7, 2], [7, 3], [7, 4]);
  story.link(1).emit({ kind: 'fetch-end', request: story.fetch, complete: true });
  assert.equal(story.link(0).closed, true);
  story.objects(0, story.video, [7, 3]);
  story.objects(1, story.video, [7, 5]);
  assert.equal(story.shown, 6);
  const stats = await story.stats();
  assert.deepEqual([stats.moves, stats.reconnects, stats.stalls], [1, 0, 1]);
  assert.deepEqual(story.phases(), ['connecting', 'live'], 'nothing of it is to be seen');
});

test('a silent relay that speaks again before the other has brought anything is believed', async (context) => {
  const story = await silenced(context);
  story.objects(0, story.video, [7, 3]);
  await until('the other is left', () => story.link(1).closed);
  story.objects(0, story.video, [7, 4]);
  assert.deepEqual([story.shown, story.link(0).closed], [5, false]);
});

test('addresses that refuse are tried in turn until one has the broadcast', async (context) => {
  const story = await silenced(context);
  story.link(1).refuse(new Error('503'));
  await until('the first address again', () => story.links.length === 3);
  assert.equal(story.link(2).options.source.url, here);
  story.link(2).refuse(new Error('no answer'));
  await until('the other address again', () => story.links.length === 4);
  story.link(3).accept();
  story.join(3, [9, 0]);
  story.objects(3, story.fetch, [9, 0]);
  story.link(3).emit({ kind: 'fetch-end', request: story.fetch, complete: true });
  story.objects(3, story.video, [9, 1]);
  await until('pictures again', () => story.counters.lastGroup === 9 && story.counters.lastObject === 1);
  assert.equal((await story.stats()).moves, 1);
});
