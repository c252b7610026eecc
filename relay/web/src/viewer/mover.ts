// Follows GOAWAY: opens the next connection while the current one still brings media, and hands over once the next one has
// caught up with what is being shown. Leaves a relay that is silent for another of the broadcast's addresses in the same
// way, without waiting for the rest of what it owes. Owns the tries and their limits; what is shown stays with the lanes.

import type { Kind } from './catalog.js';
import type { Fleet } from './fleet.js';
import type { Lane } from './lane.js';
import type { Leg } from './leg.js';
import { MoveLimit, destinationOf, optionsFor, patience, spread } from './move.js';
import type { EngineOptions } from './protocol.js';

/** First pause before another try; doubles with each. */
const RETRY_MS = 1000;
/** How long a relay that does not say is taken to wait. */
const TIMEOUT_MS = 30_000;
/** How long another address may take to bring media: a handshake with losses, and a relay that has to fetch it. */
const RESCUE_MS = 3000;
/** First pause after every other address was tried; doubles with each round. */
const ROUND_MS = 250;
const ROUND_MAX_MS = 8000;

/** The engine, as far as a move concerns it. */
export interface Roaming {
  readonly leg: Leg | null;
  readonly options: EngineOptions | null;
  readonly lanes: ReadonlyMap<Kind, Lane>;
  readonly fleet: Fleet;
  connect(options: EngineOptions): Leg;
  /** The next connection is the current one from here. */
  adopt(next: Leg): void;
  /** Where to go should the current connection end first. */
  aim(options: EngineOptions): void;
  /** The relay is silent, and the first other address did not help. */
  cutOff(): void;
}

export class Mover {
  next: Leg | null = null;
  #limit = new MoveLimit();
  #task: Promise<void> | null = null;
  #decide: ((moved: boolean) => void) | null = null;
  #wake: (() => void) | null = null;
  #currentEnded = false;
  /** Nothing is heard over the current connection. */
  #silent = false;
  #stopped = false;

  constructor(readonly host: Roaming) {}

  /** The relay of the current connection wants us elsewhere. */
  sentAway(uri: string, timeoutMs: number): void {
    if (!this.#task) this.#task = this.#follow(uri, timeoutMs).finally(() => (this.#task = null));
  }

  /** Nothing is heard from the current relay: the others are tried, one after the other, until one brings media. */
  rescue(): void {
    if (this.#silent && this.#task) return;
    this.#silent = true;
    this.#wake?.();
    this.check();
    // A move that the relay ordered before it fell silent is as good.
    this.#task ??= this.#rescue().finally(() => (this.#task = null));
  }

  /** It is heard again: what is not decided by now is not needed. */
  believe(): void {
    if (!this.#silent) return;
    this.#silent = false;
    this.#wake?.();
    this.complete(false);
  }

  get isRescuing(): boolean {
    return this.#silent;
  }

  /** The current connection has ended; returns once it is known whether another one took over. */
  async settle(): Promise<void> {
    if (!this.#task) return;
    this.#currentEnded = true;
    this.#wake?.();
    this.check();
    await this.#task;
  }

  stop(): void {
    this.#stopped = true;
    this.#wake?.();
    this.complete(false);
  }

  /** Something came: hands over if the next connection has all that is needed. */
  check(): void {
    const { next } = this;
    const { leg, lanes } = this.host;
    if (!next || lanes.size === 0) return;
    for (const [kind, lane] of lanes) {
      // A track that the current connection does not bring either is nothing to wait for.
      const over = this.#currentEnded || this.#silent;
      if (!over && leg?.tracks.get(kind)?.subscription == null) continue;
      const caughtUp = over
        ? next.tracks.get(kind)?.fetched === true
        : next.hasCaughtUp(kind, lane.merge.counters.lastGroup);
      if (!caughtUp) return;
    }
    this.complete(true);
  }

  /** Ends the try under way. */
  complete(moved: boolean): void {
    const { next } = this;
    if (!next) return;
    this.next = null;
    if (moved) this.#silent = false;
    if (moved) this.host.adopt(next);
    else next.connection.close(0, '');
    this.#decide?.(moved);
  }

  async #follow(uri: string, timeoutMs: number): Promise<void> {
    this.#currentEnded = false;
    const until = Date.now() + (timeoutMs > 0 ? timeoutMs : TIMEOUT_MS);
    await this.#pause(spread(timeoutMs, Math.random()));
    for (let pause = RETRY_MS; Date.now() < until && !this.#stopped; pause *= 2) {
      const { options } = this.host;
      const to = options && destinationOf(options.source.url, uri);
      if (!to || !this.#limit.allow(Date.now())) return;
      const there = await optionsFor(options, to);
      if (this.#stopped) return;
      this.host.aim(there);
      if ((await this.#try(there, patience(until - Date.now()))) || this.#currentEnded || this.#silent) return;
      await this.#pause(pause);
    }
  }

  async #rescue(): Promise<void> {
    this.#currentEnded = false;
    const { fleet } = this.host;
    await this.#pause(fleet.spread());
    for (let tries = 1, round = ROUND_MS; this.#silent && !this.#stopped; tries += 1) {
      const { options } = this.host;
      const uri = fleet.next();
      const to = options && uri !== null ? destinationOf(options.source.url, uri) : null;
      if (to && options) {
        const there = await optionsFor(options, to);
        if (this.#stopped || !this.#silent) return;
        this.host.aim(there);
        if (await this.#try(there, RESCUE_MS)) return;
        // What the browser has given up as well is dialled anew from the start.
        if (this.#currentEnded) break;
      }
      this.host.cutOff();
      const isRound = tries % Math.max(fleet.others, 1) === 0;
      await this.#pause(isRound ? round * fleet.chance() : fleet.spread());
      if (isRound) round = Math.min(round * 2, ROUND_MAX_MS);
    }
    this.#silent = false;
  }

  async #try(options: EngineOptions, patienceMs: number): Promise<boolean> {
    let next: Leg;
    try {
      next = this.host.connect(options);
    } catch {
      return false;
    }
    this.next = next;
    const decided = new Promise<boolean>((resolve) => (this.#decide = resolve));
    next.askForCatalog();
    for (const [kind, lane] of this.host.lanes) next.subscribe(kind, lane.track.name);
    const fail = (): void => {
      if (this.next === next) this.complete(false);
    };
    // At the end of patience the change is made as it stands, if there is something to change to.
    const timer = setTimeout(() => {
      if (this.next === next) this.complete([...next.tracks.values()].some(({ live }) => live));
    }, patienceMs);
    next.connection.ready().catch(fail);
    void next.connection.ended.then(fail);
    const moved = await decided;
    clearTimeout(timer);
    return moved;
  }

  #pause(ms: number): Promise<void> {
    if (this.#currentEnded || this.#stopped) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
