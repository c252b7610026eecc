// The part of the player that needs no page: keeps a session to the relay, follows the catalog, puts tracks in order and
// feeds MediaSource. Owns reconnection and the decision what the viewer is told; runs in a worker or on the page.

import { DoneCode, type RequestError, RequestCode } from '../moqt/message.js';
import type { Event } from '../moqt/session.js';
import { type Catalog, type CatalogTrack, type Kind, parseCatalog } from './catalog.js';
import { readChunk } from './chunk.js';
import { DRAFT, type Ending, isAuthFailure } from './connection.js';
import { Fleet, Silence } from './fleet.js';
import { Lane, choose, sameBytes, sameKinds, undecodable } from './lane.js';
import { type Asked, type Connect, Leg } from './leg.js';
import { apart, askCertificate, destinationOf, optionsFor } from './move.js';
import { Mover, type Roaming } from './mover.js';
import type { EngineOptions, EngineStats, FromEngine, Phase, ToEngine } from './protocol.js';
import { Sink } from './sink.js';
import { withToken } from './source.js';

const TICK_MS = 100;
/** First pause before a new connection; doubles with each failure, and is spread by half. */
const BACKOFF_MS = 250;
const BACKOFF_MAX_MS = 8000;
/** How long one of several addresses may take to answer. */
const ANSWER_OF_SEVERAL_MS = 3000;
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
/** Media sources replaced after errors within a minute; past it, this browser cannot play the broadcast. */
const REPAIRS_MAX = 4;

type Post = (message: FromEngine, transfer?: Transferable[]) => void;

/** Why an attempt ended. */
type Outcome = { kind: 'ended'; ending: Ending } | { kind: 'unreachable'; reason: string } | { kind: 'again' };

export class Engine implements Roaming {
  #options: EngineOptions | null = null;
  #running = false;
  #leg: Leg | null = null;
  #lanes = new Map<Kind, Lane>();
  #mover = new Mover(this);
  #fleet = new Fleet([]);
  #silence = new Silence(0);
  /** Where the relay wants us, should its connection end before the move. */
  #aim: EngineOptions | null = null;
  #sink: Sink | null = null;
  #phase: Phase = 'connecting';
  #reason = '';
  #catalog: Catalog | null = null;
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
  #stats: EngineStats = { draft: DRAFT, rttMs: null, connectMs: null, reconnects: 0, moves: 0, stalls: 0, tracks: {} };

  constructor(
    readonly post: Post,
    readonly dial?: Connect,
  ) {}

  // As the mover sees it.

  get leg(): Leg | null {
    return this.#leg;
  }

  get options(): EngineOptions | null {
    return this.#options;
  }

  get lanes(): ReadonlyMap<Kind, Lane> {
    return this.#lanes;
  }

  get fleet(): Fleet {
    return this.#fleet;
  }

  cutOff(): void {
    this.#tell('reconnecting', 'The relay does not answer.');
  }

  connect(options: EngineOptions): Leg {
    return new Leg(options, (leg, event) => this.#onEvent(leg, event), this.dial);
  }

  aim(options: EngineOptions): void {
    this.#aim = options;
  }

  adopt(next: Leg): void {
    const left = this.#leg;
    const token = this.#options && new URL(this.#options.source.url).searchParams.get('tok');
    // The token may have been renewed since that connection was begun.
    this.#options = token ? { ...next.options, source: withToken(next.options.source, token) } : next.options;
    this.#aim = null;
    this.#leg = next;
    this.#stats.moves += 1;
    this.#heardAt = Date.now();
    this.#answeredAt = 0;
    this.#silence = new Silence(this.#heardAt);
    this.#fleet.moved(next.options.source.url);
    left?.connection.close(0, '');
    const { catalogHeld, goaway } = next;
    if (catalogHeld) this.#onCatalogEvent(next, catalogHeld, this.#heardAt);
    if (goaway) setTimeout(() => this.#mover.sentAway(goaway.uri, goaway.timeoutMs));
  }

  handle(message: ToEngine): void {
    switch (message.kind) {
      case 'start':
        this.#options = message.options;
        this.#fleet = new Fleet([message.options.source.url, ...(message.options.addresses ?? [])]);
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
        // The address stays: we may have moved since the page gave us one.
        if (this.#options) {
          this.#options = { ...this.#options, source: withToken(this.#options.source, message.token) };
        }
        this.#leg?.renewToken(message.token);
        this.#mover.next?.renewToken(message.token);
        break;
    }
  }

  #stop(): void {
    this.#running = false;
    clearInterval(this.#timer);
    this.#mover.stop();
    this.#leg?.connection.close(0, '');
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
      this.#leg = null;
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
      const next = this.#aim ?? (await this.#another(outcome));
      if (next) this.#options = next;
      this.#aim = null;
      if (this.#options?.certificateUrl) await this.#refreshCertificate(this.#options.certificateUrl);
    }
  }

  /** Another address of the broadcast, when this one could not be had. */
  async #another(outcome: Outcome): Promise<EngineOptions | null> {
    const uri = outcome.kind === 'unreachable' && this.#fleet.hasOthers ? this.#fleet.next() : null;
    const options = this.#options;
    const to = options && uri !== null ? destinationOf(options.source.url, uri) : null;
    return options && to ? optionsFor(options, to) : null;
  }

  async #attempt(): Promise<Outcome> {
    const options = this.#options;
    if (!options) return { kind: 'again' };
    let leg: Leg;
    try {
      leg = this.connect(options);
    } catch (error) {
      return { kind: 'unreachable', reason: error instanceof Error ? error.message : String(error) };
    }
    this.#leg = leg;
    this.#reconnectNow = false;
    this.#heardAt = Date.now();
    this.#answeredAt = 0;
    this.#silence = new Silence(this.#heardAt);
    leg.askForCatalog();
    const giveUp = (): void => leg.connection.close(0, '');
    const timer = this.#fleet.hasOthers ? setTimeout(giveUp, ANSWER_OF_SEVERAL_MS) : undefined;
    try {
      await leg.connection.ready();
    } catch (error) {
      // A session refused with a close says more than the failed handshake.
      const ending = await Promise.race([leg.connection.ended, Promise.resolve(null)]);
      if (ending && isAuthFailure(ending)) return { kind: 'ended', ending };
      return { kind: 'unreachable', reason: error instanceof Error ? error.message : String(error) };
    } finally {
      clearTimeout(timer);
    }
    if (this.#stats.connectMs !== null) this.#stats.reconnects += 1;
    this.#stats.connectMs = Date.now() - leg.started;
    this.#heardAt = Date.now();
    const ending = await this.#ending(leg);
    return this.#reconnectNow ? { kind: 'again' } : { kind: 'ended', ending };
  }

  /** The end of the connection, or of those that took over from it. */
  async #ending(first: Leg): Promise<Ending> {
    for (let leg = first; ; ) {
      const ending = await leg.connection.ended;
      // A move under way may still succeed.
      if (this.#leg === leg && !this.#reconnectNow) await this.#mover.settle();
      if (this.#leg === leg || !this.#leg) return ending;
      leg = this.#leg;
    }
  }

  #reconnectNow = false;

  /** Gives up a connection for a new one at once. */
  #reconnect(reason: string): void {
    this.#reconnectNow = true;
    this.#leg?.connection.close(0, reason);
  }

  async #refreshCertificate(url: string): Promise<void> {
    const hash = await askCertificate(url);
    // The page's server may be away too; the old hash may still be right.
    if (hash !== null && this.#options) this.#options = { ...this.#options, certificateSha256: hash };
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

  #onEvent(leg: Leg, event: Event): void {
    const isNext = leg === this.#mover.next;
    // What a connection that was left still brings is nobody's.
    if (leg !== this.#leg && !isNext) return;
    const now = Date.now();
    if (!isNext) this.#heardAt = now;
    if (event.kind === 'goaway') {
      leg.goaway ??= { uri: event.uri, timeoutMs: event.timeoutMs };
      if (!isNext) this.#mover.sentAway(event.uri, event.timeoutMs);
      return;
    }
    if (event.kind === 'setup') return;
    if (leg.isCatalog(event.request)) {
      if (!isNext) this.#onCatalogEvent(leg, event, now);
      else if (event.kind === 'object') leg.catalogHeld = event;
      return;
    }
    if (leg.status && event.request === leg.status.request) {
      this.#stats.rttMs = now - leg.status.sent;
      this.#answeredAt = now;
      leg.status = null;
      return;
    }
    const kind = leg.kindOf(event.request);
    const asked = kind && leg.tracks.get(kind);
    const lane = kind && this.#lanes.get(kind);
    if (asked && lane) this.#onMediaEvent(leg, asked, lane, event, now);
  }

  #onCatalogEvent(leg: Leg, event: Event, now: number): void {
    if (event.kind === 'object') {
      const newer =
        event.group > leg.catalogAt.group ||
        (event.group === leg.catalogAt.group && event.object > leg.catalogAt.object);
      if (!newer) return;
      const catalog = parseCatalog(event.payload);
      if (!catalog) return;
      leg.catalogAt = { group: event.group, object: event.object };
      this.#follow(catalog, now);
      return;
    }
    if (!('request' in event) || event.request !== leg.catalogSubscription) return;
    if (event.kind === 'refused') {
      if (this.#refusedForGood(event.error)) return;
      const gone = event.error.code === RequestCode.DoesNotExist;
      this.#tell(this.#phase === 'ended' ? 'ended' : 'offline', gone ? '' : event.error.reason);
      this.#askLater(leg, event.error.retryMs);
    } else if (event.kind === 'done') {
      if (event.code === DoneCode.Unauthorized || event.code === DoneCode.Expired) {
        this.#finish('auth failed', event.reason);
      } else if (event.code === DoneCode.GoingAway) {
        // A relay that says where to, too, is left by a move.
        if (!leg.goaway) this.#reconnect('going away');
      } else {
        if (event.code === DoneCode.TrackEnded) this.#end();
        this.#askLater(leg, null);
      }
    }
  }

  #askLater(leg: Leg, retryMs: number | null): void {
    leg.askLater(Date.now() + Math.max(retryMs ?? 0, OFFLINE_POLL_MS) * (0.75 + Math.random() / 2));
  }

  #end(): void {
    this.#catalog = null;
    this.#leg?.tracks.clear();
    this.#tell('ended', '');
  }

  /** Refusals over the token end everything. */
  #refusedForGood(error: RequestError): boolean {
    const codes: number[] = [RequestCode.Unauthorized, RequestCode.MalformedToken, RequestCode.ExpiredToken];
    if (!codes.includes(error.code) && !error.reason.startsWith('auth_failed')) return false;
    this.#finish('auth failed', error.reason);
    return true;
  }

  // Tracks.

  #follow(catalog: Catalog, now: number): void {
    if (!catalog.live) {
      this.#end();
      return;
    }
    const chosen = choose(catalog);
    const obstacle = undecodable(catalog, chosen);
    if (obstacle !== null) {
      // The session stays: the next catalog may name a codec that this browser has.
      this.#clear();
      this.#tell('failed', obstacle);
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
      if ((this.#leg?.tracks.get(track.kind)?.subscription ?? null) === null) this.#subscribe(lane);
      return;
    }
    if (lane) {
      this.#leg?.cancel(track.kind);
      this.#sink?.change(track);
    }
    const fresh = new Lane(track);
    this.#lanes.set(track.kind, fresh);
    this.#subscribe(fresh);
  }

  #subscribe(lane: Lane): void {
    if (!this.#leg) return;
    lane.merge.beginFetch();
    this.#leg.subscribe(lane.track.kind, lane.track.name);
  }

  /** Lets go of what is playing. */
  #clear(): void {
    this.#sink?.close();
    this.#sink = null;
    for (const kind of this.#lanes.keys()) this.#leg?.cancel(kind);
    this.#lanes.clear();
  }

  #build(tracks: CatalogTrack[]): void {
    this.#clear();
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

  /** Both connections of a move feed the same lane, which takes each object once. */
  #onMediaEvent(leg: Leg, asked: Asked, lane: Lane, event: Event, now: number): void {
    leg.follow(asked, event);
    if (leg === this.#mover.next && event.kind === 'subscribed' && event.largest) {
      const shown = lane.merge.counters.lastGroup;
      // Another count of groups: the two cannot be joined, so this is a seam, and the sooner the better.
      if (shown !== null && apart(shown, event.largest.group)) {
        for (const { merge } of this.#lanes.values()) merge.beginFetch();
        this.#mover.complete(true);
      }
    }
    const joins = leg === this.#leg;
    switch (event.kind) {
      case 'subscribed':
        if (joins && event.request === asked.subscription) lane.merge.join(event.largest);
        break;
      case 'object':
        if (event.request === asked.subscription) {
          // What a FETCH brings may be old: only live objects are a sign of life of the publisher.
          this.#mediaAt = now;
          this.#triedInAbsence = false;
          this.#attempts = 0;
        }
        lane.count(event.payload.length, now);
        lane.merge.push(event.group, event.object, event.payload, now);
        break;
      case 'group-end':
        lane.merge.endGroup(event.group, event.object, now);
        break;
      case 'group-lost':
        // What one connection gave up may still come over the other.
        if (joins && !this.#mover.next) lane.merge.loseGroup(event.group, now);
        break;
      case 'gap':
        if (joins) lane.merge.gap(event.end, !event.known);
        break;
      case 'fetch-end':
        if (joins) lane.merge.endFetch();
        break;
      case 'refused':
        if (asked.fetch === null && asked.fetched && event.request !== asked.subscription) {
          if (joins) lane.merge.endFetch();
        } else if (!joins) {
          asked.subscription = null;
          asked.retryAt = now + TRACK_RETRY_MS;
        } else if (!this.#refusedForGood(event.error)) {
          // A subscription just taken back may still be in the relay's books, or the track is not open yet.
          asked.subscription = null;
          asked.retryAt = now + TRACK_RETRY_MS;
        }
        break;
      case 'done':
        if (event.request === asked.subscription) {
          asked.subscription = null;
          if (joins && (event.code === DoneCode.Unauthorized || event.code === DoneCode.Expired)) {
            this.#finish('auth failed', event.reason);
          }
        }
        break;
      default:
        break;
    }
    this.#deliver(lane, now);
    this.#mover.check();
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
        const joining = (this.#leg?.tracks.get(kind)?.fetch ?? null) !== null;
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
    const leg = this.#leg;
    if (leg && leg.askAgainAt !== null && now >= leg.askAgainAt) leg.askForCatalog();
    this.#watchdog(now);
    this.#sink?.trim();
    if (this.#catalog) this.#retry(now);
    if (leg && now - this.#statusAt >= RTT_EVERY_MS && leg.catalogAt.group >= 0) this.#probe(now);
    if (now - this.#statsAt >= STATS_EVERY_MS) this.#report(now);
  }

  #report(now: number): void {
    this.#statsAt = now;
    this.post({ kind: 'stats', stats: this.#measure(now) });
  }

  /** Asks again for tracks that were refused. */
  #retry(now: number): void {
    for (const leg of [this.#leg, this.#mover.next]) {
      for (const [kind, { subscription, retryAt }] of leg?.tracks ?? []) {
        const lane = this.#lanes.get(kind);
        if (retryAt === null || now < retryAt || subscription !== null || !lane) continue;
        if (leg === this.#leg) this.#subscribe(lane);
        else leg?.subscribe(kind, lane.track.name);
      }
    }
  }

  /** Asks the relay something that it answers at once: a round trip, and a sign of life. */
  #probe(now: number): void {
    if (!this.#leg || this.#leg.status) return;
    this.#statusAt = now;
    this.#leg.probe(now);
  }

  /** With another address to go to, a relay that answers nothing is left at once. */
  #listen(now: number): void {
    const leg = this.#leg;
    if (!leg || !this.#fleet.hasOthers || leg.catalogAt.group < 0) return;
    const live = this.#mediaAt >= this.#heardAt;
    const rtt = this.#stats.rttMs ?? 0;
    switch (this.#silence.look(now, this.#heardAt, leg.status !== null, live, rtt)) {
      case 'heard':
        this.#mover.believe();
        break;
      case 'ask':
        this.#probe(now);
        break;
      case 'silent':
        if (!this.#mover.isRescuing) this.#stats.stalls += 1;
        this.#mover.rescue();
        break;
      case 'wait':
        break;
    }
  }

  #watchdog(now: number): void {
    this.#listen(now);
    if (this.#mover.isRescuing) return;
    const silent = now - this.#heardAt;
    const { status } = this.#leg ?? {};
    if (status && now - status.sent > ANSWER_MS && silent > ANSWER_MS) {
      this.#stats.stalls += 1;
      this.#reconnect('nothing came for a while');
      return;
    }
    // Nothing is to be expected but catalogs.
    if (this.#phase === 'offline' || this.#phase === 'ended' || this.#phase === 'failed') {
      if (silent > OFFLINE_SILENCE_MS) this.#reconnect('nothing came for a while');
      return;
    }
    // Until a catalog has come, connecting has its own deadlines.
    if (!this.#leg || this.#leg.catalogAt.group < 0) return;
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
    for (const [kind, lane] of this.#lanes) tracks[kind] = lane.stats(now);
    return { ...this.#stats, tracks };
  }
}
