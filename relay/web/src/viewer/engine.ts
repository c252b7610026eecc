// The part of the player that needs no page: keeps a session to the relay, follows the catalog, puts tracks in order and
// feeds MediaSource. Owns reconnection and the decision what the viewer is told; runs in a worker or on the page.

import { DoneCode, type RequestError, RequestCode } from '../moqt/message.js';
import type { Event } from '../moqt/session.js';
import { type Catalog, type CatalogTrack, type Kind, mimeOf, parseCatalog } from './catalog.js';
import { readChunk } from './chunk.js';
import { Connection, DRAFT, type Ending, isAuthFailure } from './connection.js';
import { Merge } from './merge.js';
import type { EngineOptions, EngineStats, FromEngine, Phase, ToEngine, TrackStats } from './protocol.js';
import { Sink, mediaSourceClass } from './sink.js';

const CATALOG = '.catalog';
/** Subscriber priorities; lower is served first. */
const PRIORITY = { catalog: 0, audio: 1, video: 2 } as const;
const TICK_MS = 100;
/** First pause before a new connection; doubles with each failure, and is spread by half. */
const BACKOFF_MS = 250;
const BACKOFF_MAX_MS = 8000;
/** How often an absent broadcast is asked for. */
const OFFLINE_POLL_MS = 2000;
/** No media for this long or two groups: the relay is asked whether it is still there. */
const ABSENCE_MS = 1500;
/** A relay that has not answered by then, nor sent anything else, is gone. */
const ANSWER_MS = 2500;
/** An absent broadcast is asked for every two seconds: no word for this long, and the relay is gone too. */
const OFFLINE_SILENCE_MS = 8000;
/** Catalogs but no media for this long: perhaps the data streams died. One new connection is tried per absence. */
const ABSENCE_RECONNECT_MS = 9000;
/** How soon a refused track is asked for again. */
const TRACK_RETRY_MS = 500;
const RTT_EVERY_MS = 5000;
/** A group that stalls may hold up a newer one this long, and longer while the buffer lasts. */
const PATIENCE_MIN_MS = 120;
const PATIENCE_MAX_MS = 2000;
const STATS_EVERY_MS = 250;
const RATE_SPAN_MS = 5000;
/** Media sources replaced after errors within a minute; past it, this browser cannot play the broadcast. */
const REPAIRS_MAX = 4;

type Post = (message: FromEngine, transfer?: Transferable[]) => void;

/** One track being watched. */
interface Lane {
  track: CatalogTrack;
  merge: Merge;
  subscription: number | null;
  fetch: number | null;
  bytes: number;
  recent: { at: number; bytes: number }[];
  /** When to ask again after a refusal. */
  retryAt: number | null;
}

/** Why an attempt ended. */
type Outcome = { kind: 'ended'; ending: Ending } | { kind: 'unreachable'; reason: string } | { kind: 'again' };

export class Engine {
  #options: EngineOptions | null = null;
  #running = false;
  #connection: Connection | null = null;
  #lanes = new Map<Kind, Lane>();
  #sink: Sink | null = null;
  #phase: Phase = 'connecting';
  #reason = '';
  #catalog: Catalog | null = null;
  #catalogAt = { group: -1, object: -1 };
  #catalogSubscription: number | null = null;
  #catalogFetch: number | null = null;
  #askAgainAt: number | null = null;
  #status: { request: number; sent: number } | null = null;
  #statusAt = 0;
  #answeredAt = 0;
  #attempts = 0;
  #heardAt = 0;
  #mediaAt = 0;
  #triedInAbsence = false;
  #groupStartedAt = 0;
  #groupMs = 2000;
  #aheadMs = 0;
  #repairs: number[] = [];
  #timer: ReturnType<typeof setInterval> | undefined;
  #wake: (() => void) | null = null;
  #statsAt = 0;
  #stats: EngineStats = { draft: DRAFT, rttMs: null, connectMs: null, reconnects: 0, stalls: 0, tracks: {} };

  constructor(readonly post: Post) {}

  handle(message: ToEngine): void {
    switch (message.kind) {
      case 'start':
        this.#options = message.options;
        if (!this.#running) void this.#run();
        break;
      case 'stop':
        this.#stop();
        break;
      case 'position':
        this.#aheadMs = message.aheadMs;
        this.#sink?.position(message.seconds);
        break;
      case 'media-error':
        this.#repair(message.reason);
        break;
      case 'token':
        if (this.#options) this.#options = { ...this.#options, source: message.source };
        if (this.#catalogSubscription !== null) {
          this.#connection?.session.renewToken(this.#catalogSubscription, message.token);
          this.#connection?.pump();
        }
        break;
    }
  }

  #stop(): void {
    this.#running = false;
    clearInterval(this.#timer);
    this.#connection?.close(0, '');
    this.#sink?.close();
    this.#wake?.();
  }

  // One connection after the other.

  async #run(): Promise<void> {
    this.#running = true;
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
    this.#tell('connecting', '');
    while (this.#running) {
      const outcome = await this.#attempt();
      this.#connection = null;
      if (!this.#running) return;
      if (outcome.kind === 'ended' && isAuthFailure(outcome.ending)) {
        this.#finish('auth failed', outcome.ending.reason);
        return;
      }
      if (this.#phase === 'auth failed' || this.#phase === 'failed') return;
      if (outcome.kind === 'again') {
        this.#tell('reconnecting', '');
        continue;
      }
      const reason = outcome.kind === 'ended' ? outcome.ending.reason : outcome.reason;
      const pause = Math.min(BACKOFF_MS * 2 ** this.#attempts, BACKOFF_MAX_MS) * (0.5 + Math.random());
      this.#attempts += 1;
      this.#tell('reconnecting', reason, pause);
      await this.#sleep(pause);
      if (this.#options?.certificateUrl) await this.#refreshCertificate(this.#options.certificateUrl);
    }
  }

  async #attempt(): Promise<Outcome> {
    const options = this.#options;
    if (!options) return { kind: 'again' };
    const started = Date.now();
    let connection: Connection;
    try {
      const hash = options.certificateSha256 ? hexBytes(options.certificateSha256) : null;
      connection = new Connection(options.source.url, hash, (event) => this.#onEvent(event));
    } catch (error) {
      return { kind: 'unreachable', reason: error instanceof Error ? error.message : String(error) };
    }
    this.#connection = connection;
    this.#resetSession();
    this.#askForCatalog();
    try {
      await connection.ready();
    } catch (error) {
      // A session refused with a close says more than the failed handshake.
      const ending = await Promise.race([connection.ended, Promise.resolve(null)]);
      if (ending && isAuthFailure(ending)) return { kind: 'ended', ending };
      return { kind: 'unreachable', reason: error instanceof Error ? error.message : String(error) };
    }
    if (this.#stats.connectMs !== null) this.#stats.reconnects += 1;
    this.#stats.connectMs = Date.now() - started;
    this.#heardAt = Date.now();
    const ending = await connection.ended;
    return this.#reconnectNow ? { kind: 'again' } : { kind: 'ended', ending };
  }

  #reconnectNow = false;

  /** Gives up a connection for a new one at once. */
  #reconnect(reason: string): void {
    this.#reconnectNow = true;
    this.#connection?.close(0, reason);
  }

  #resetSession(): void {
    this.#reconnectNow = false;
    this.#catalogSubscription = null;
    this.#catalogFetch = null;
    this.#catalogAt = { group: -1, object: -1 };
    this.#askAgainAt = null;
    this.#status = null;
    this.#heardAt = Date.now();
    this.#answeredAt = 0;
    for (const lane of this.#lanes.values()) {
      lane.subscription = null;
      lane.fetch = null;
    }
  }

  async #refreshCertificate(url: string): Promise<void> {
    try {
      const response = await fetch(url, { cache: 'no-store' });
      const text = (await response.text()).trim();
      if (response.ok && /^[0-9a-f]{64}$/i.test(text) && this.#options) {
        this.#options = { ...this.#options, certificateSha256: text };
      }
    } catch {
      // The page's server is away too; the old hash may still be right.
    }
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  #tell(phase: Phase, reason: string, retryInMs: number | null = null): void {
    if (phase === this.#phase && reason === this.#reason && retryInMs === null && phase !== 'connecting') return;
    this.#phase = phase;
    this.#reason = reason;
    this.post({ kind: 'phase', phase, reason, retryInMs });
  }

  /** A state that only a person can change. */
  #finish(phase: 'auth failed' | 'failed', reason: string): void {
    this.#tell(phase, reason);
    this.#stop();
  }

  // Events of the session.

  #onEvent(event: Event): void {
    const now = Date.now();
    this.#heardAt = now;
    if (event.kind === 'goaway') {
      this.#moveTo(event.uri);
      return;
    }
    if (event.kind === 'setup') return;
    if (event.request === this.#catalogSubscription || event.request === this.#catalogFetch) {
      this.#onCatalogEvent(event, now);
      return;
    }
    if (this.#status && event.request === this.#status.request) {
      this.#stats.rttMs = now - this.#status.sent;
      this.#answeredAt = now;
      this.#status = null;
      return;
    }
    for (const lane of this.#lanes.values()) {
      if (event.request === lane.subscription || event.request === lane.fetch) {
        this.#onMediaEvent(lane, event, now);
        return;
      }
    }
  }

  #askForCatalog(): void {
    const { session } = this.#connection ?? {};
    if (!session || !this.#options) return;
    this.#askAgainAt = null;
    this.#catalogSubscription = session.subscribe(this.#options.source.namespace, CATALOG, PRIORITY.catalog);
    this.#catalogFetch = session.fetchJoining(this.#catalogSubscription, 0, PRIORITY.catalog);
    this.#connection?.pump();
  }

  #onCatalogEvent(event: Event, now: number): void {
    if (event.kind === 'object') {
      const newer =
        event.group > this.#catalogAt.group ||
        (event.group === this.#catalogAt.group && event.object > this.#catalogAt.object);
      if (!newer) return;
      const catalog = parseCatalog(event.payload);
      if (!catalog) return;
      this.#catalogAt = { group: event.group, object: event.object };
      this.#follow(catalog, now);
      return;
    }
    if (!('request' in event) || event.request !== this.#catalogSubscription) return;
    if (event.kind === 'refused') {
      if (this.#refusedForGood(event.error)) return;
      const gone = event.error.code === RequestCode.DoesNotExist;
      this.#tell(this.#phase === 'ended' ? 'ended' : 'offline', gone ? '' : event.error.reason);
      this.#askLater(event.error.retryMs);
    } else if (event.kind === 'done') {
      if (event.code === DoneCode.Unauthorized || event.code === DoneCode.Expired) {
        this.#finish('auth failed', event.reason);
      } else if (event.code === DoneCode.GoingAway) {
        this.#reconnect('going away');
      } else {
        if (event.code === DoneCode.TrackEnded) this.#end();
        this.#askLater(null);
      }
    }
  }

  #askLater(retryMs: number | null): void {
    this.#catalogSubscription = null;
    this.#catalogFetch = null;
    this.#catalogAt = { group: -1, object: -1 };
    this.#askAgainAt = Date.now() + Math.max(retryMs ?? 0, OFFLINE_POLL_MS) * (0.75 + Math.random() / 2);
  }

  #end(): void {
    this.#catalog = null;
    for (const lane of this.#lanes.values()) lane.subscription = null;
    this.#tell('ended', '');
  }

  /** Refusals over the token end everything. */
  #refusedForGood(error: RequestError): boolean {
    const codes: number[] = [RequestCode.Unauthorized, RequestCode.MalformedToken, RequestCode.ExpiredToken];
    if (!codes.includes(error.code) && !error.reason.startsWith('auth_failed')) return false;
    this.#finish('auth failed', error.reason);
    return true;
  }

  #moveTo(uri: string): void {
    if (uri !== '' && this.#options) {
      try {
        const to = new URL(uri.replace(/^moqt?:/, 'https:'));
        const url = new URL(this.#options.source.url);
        url.host = to.host;
        if (to.protocol === 'https:') this.#options = { ...this.#options, source: { ...this.#options.source, url: url.href } };
      } catch {
        // A URI we cannot read: the old address may still serve.
      }
    }
    this.#reconnect('moved');
  }

  // Tracks.

  #follow(catalog: Catalog, now: number): void {
    if (!catalog.live) {
      this.#end();
      return;
    }
    const chosen = choose(catalog);
    if (chosen.length === 0) {
      this.#tell('failed', 'This browser can decode none of the tracks of this broadcast.');
      return;
    }
    this.#catalog = catalog;
    this.post({ kind: 'catalog', tracks: chosen.map(({ init: _, ...rest }) => rest) });
    const kinds = chosen.map(({ kind }) => kind);
    const rebuild = !this.#sink || !sameKinds(this.#sink.kinds, kinds);
    if (rebuild) this.#build(chosen);
    if (this.#mediaAt === 0) this.#mediaAt = now;
    for (const track of chosen) this.#watch(track);
  }

  /** Subscribes a track unless that is done, and takes over a changed init. */
  #watch(track: CatalogTrack): void {
    const lane = this.#lanes.get(track.kind);
    if (lane && lane.track.name === track.name) {
      const changed = lane.track.codec !== track.codec || !sameBytes(lane.track.init, track.init);
      lane.track = track;
      if (changed) this.#sink?.change(track);
      if (lane.subscription === null) this.#subscribe(lane);
      return;
    }
    if (lane) {
      if (lane.subscription !== null) this.#connection?.session.cancel(lane.subscription);
      if (lane.fetch !== null) this.#connection?.session.cancel(lane.fetch);
      this.#sink?.change(track);
    }
    const fresh: Lane = { track, merge: new Merge(), subscription: null, fetch: null, bytes: 0, recent: [], retryAt: null };
    this.#lanes.set(track.kind, fresh);
    this.#subscribe(fresh);
  }

  #subscribe(lane: Lane): void {
    const { session } = this.#connection ?? {};
    if (!session || !this.#options) return;
    const priority = PRIORITY[lane.track.kind];
    lane.merge.beginFetch();
    lane.subscription = session.subscribe(this.#options.source.namespace, lane.track.name, priority);
    lane.fetch = session.fetchJoining(lane.subscription, 0, priority);
    this.#connection?.pump();
  }

  #build(tracks: CatalogTrack[]): void {
    this.#sink?.close();
    for (const lane of this.#lanes.values()) {
      if (lane.subscription !== null) this.#connection?.session.cancel(lane.subscription);
    }
    this.#lanes.clear();
    this.#sink = new Sink(tracks, { onBroken: (reason) => this.#repair(reason) });
    const { source } = this.#sink;
    this.post({ kind: 'restarted' });
    const { handle } = source;
    if (handle) this.post({ kind: 'media', media: handle }, [handle as unknown as Transferable]);
    else this.post({ kind: 'media', media: source });
  }

  /** Replaces a broken media source; the groups start anew. */
  #repair(reason: string): void {
    const now = Date.now();
    this.#repairs = [...this.#repairs.filter((at) => now - at < 60_000), now];
    if (this.#repairs.length > REPAIRS_MAX || !this.#catalog) {
      this.#finish('failed', reason);
      return;
    }
    this.#sink?.close();
    this.#sink = null;
    this.#follow(this.#catalog, now);
  }

  #onMediaEvent(lane: Lane, event: Event, now: number): void {
    switch (event.kind) {
      case 'subscribed':
        if (event.request === lane.subscription) lane.merge.join(event.largest);
        break;
      case 'object':
        if (event.request === lane.subscription) {
          // What a FETCH brings may be old: only live objects are a sign of life of the publisher.
          this.#mediaAt = now;
          this.#triedInAbsence = false;
          this.#attempts = 0;
        }
        lane.bytes += event.payload.length;
        lane.recent.push({ at: now, bytes: event.payload.length });
        lane.merge.push(event.group, event.object, event.payload, now);
        break;
      case 'group-end':
        lane.merge.endGroup(event.group, event.object, now);
        break;
      case 'group-lost':
        lane.merge.loseGroup(event.group, now);
        break;
      case 'gap':
        lane.merge.gap(event.end, !event.known);
        break;
      case 'fetch-end':
        lane.merge.endFetch();
        lane.fetch = null;
        break;
      case 'refused':
        if (event.request === lane.fetch) {
          lane.merge.endFetch();
          lane.fetch = null;
        } else if (!this.#refusedForGood(event.error)) {
          // A subscription just taken back may still be in the relay's books, or the track is not open yet.
          lane.subscription = null;
          lane.retryAt = now + TRACK_RETRY_MS;
        }
        break;
      case 'done':
        if (event.request === lane.subscription) {
          lane.subscription = null;
          if (event.code === DoneCode.Unauthorized || event.code === DoneCode.Expired) {
            this.#finish('auth failed', event.reason);
          }
        }
        break;
      default:
        break;
    }
    this.#deliver(lane, now);
  }

  #deliver(lane: Lane, now: number): void {
    const patience = Math.min(Math.max(PATIENCE_MIN_MS, this.#aheadMs - PATIENCE_MIN_MS), PATIENCE_MAX_MS);
    const first = lane.merge.counters.objects === 0;
    for (const { payload, opens } of lane.merge.poll(now, patience)) {
      const { kind } = lane.track;
      const times = readChunk(payload);
      if (!this.#sink) return;
      const { offset, timescale } = this.#sink.append(kind, payload, opens, times.decode);
      const media = times.media ?? times.decode;
      if (media !== null) {
        const seconds = media / timescale + offset;
        const captured = times.capturedMs;
        const joining = lane.fetch !== null;
        this.post({ kind: 'chunk', track: kind, media: seconds, captured, arrived: now, joining });
      }
      if (opens && kind === this.#clockKind) {
        if (this.#groupStartedAt > 0) this.#groupMs = Math.min(Math.max(now - this.#groupStartedAt, 500), 10_000);
        this.#groupStartedAt = now;
      }
      this.#tell('live', '');
    }
    // Whoever sees the first picture also finds its track in the statistics.
    if (first && lane.merge.counters.objects > 0) this.#report(now);
  }

  /** The kind whose groups give the rhythm. */
  get #clockKind(): Kind {
    return this.#lanes.has('video') ? 'video' : 'audio';
  }

  // Time.

  #tick(): void {
    const now = Date.now();
    for (const lane of this.#lanes.values()) this.#deliver(lane, now);
    if (this.#askAgainAt !== null && now >= this.#askAgainAt && this.#connection) this.#askForCatalog();
    this.#watchdog(now);
    this.#sink?.trim();
    for (const lane of this.#lanes.values()) {
      if (lane.retryAt === null || now < lane.retryAt || lane.subscription !== null) continue;
      lane.retryAt = null;
      if (this.#catalog) this.#subscribe(lane);
    }
    if (now - this.#statusAt >= RTT_EVERY_MS && this.#catalogAt.group >= 0) this.#probe(now);
    if (now - this.#statsAt >= STATS_EVERY_MS) this.#report(now);
  }

  #report(now: number): void {
    this.#statsAt = now;
    this.post({ kind: 'stats', stats: this.#measure(now) });
  }

  /** Asks the relay something that it answers at once: a round trip, and a sign of life. */
  #probe(now: number): void {
    if (this.#status || !this.#connection || !this.#options) return;
    this.#statusAt = now;
    const request = this.#connection.session.trackStatus(this.#options.source.namespace, CATALOG);
    this.#status = { request, sent: now };
    this.#connection.pump();
  }

  #watchdog(now: number): void {
    const silent = now - this.#heardAt;
    if (this.#status && now - this.#status.sent > ANSWER_MS && silent > ANSWER_MS) {
      this.#stats.stalls += 1;
      this.#reconnect('nothing came for a while');
      return;
    }
    if (this.#phase === 'offline' || this.#phase === 'ended') {
      if (silent > OFFLINE_SILENCE_MS) this.#reconnect('nothing came for a while');
      return;
    }
    // Until a catalog has come, connecting has its own deadlines.
    if (this.#catalogAt.group < 0) return;
    const absent = now - this.#mediaAt;
    if (absent < Math.max(ABSENCE_MS, 2 * this.#groupMs)) return;
    if (this.#answeredAt < this.#mediaAt) {
      this.#probe(now);
      return;
    }
    // The relay is there: it is the publisher that has gone.
    if (this.#phase === 'live') this.#stats.stalls += 1;
    this.#tell('waiting', '');
    if (absent > ABSENCE_RECONNECT_MS && !this.#triedInAbsence) {
      this.#triedInAbsence = true;
      this.#reconnect('no media came for a while');
    }
  }

  #measure(now: number): EngineStats {
    const tracks: EngineStats['tracks'] = {};
    for (const [kind, lane] of this.#lanes) {
      lane.recent = lane.recent.filter(({ at }) => now - at < RATE_SPAN_MS);
      const bytes = lane.recent.reduce((sum, entry) => sum + entry.bytes, 0);
      const span = Math.max(1000, now - (lane.recent[0]?.at ?? now));
      const stats: TrackStats = {
        name: lane.track.name,
        codec: lane.track.codec,
        bytes: lane.bytes,
        bitrate: Math.round((bytes * 8000) / span),
        ...lane.merge.counters,
      };
      tracks[kind] = stats;
    }
    return { ...this.#stats, tracks };
  }
}

/** One track of each kind: the tallest picture and the first sound that this browser decodes. */
function choose(catalog: Catalog): CatalogTrack[] {
  const Source = mediaSourceClass();
  const playable = catalog.tracks.filter((track) => Source?.isTypeSupported(mimeOf(track)));
  const video = playable
    .filter(({ kind }) => kind === 'video')
    .sort((left, right) => (right.height ?? 0) - (left.height ?? 0))[0];
  const audio = playable.find(({ kind }) => kind === 'audio');
  return [video, audio].filter((track) => track !== undefined);
}

function sameKinds(left: Kind[], right: Kind[]): boolean {
  return left.length === right.length && left.every((kind) => right.includes(kind));
}

function sameBytes(left: Uint8Array, right: Uint8Array): boolean {
  return left.length === right.length && left.every((byte, index) => byte === right[index]);
}

function hexBytes(hex: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}
