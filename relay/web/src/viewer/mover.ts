// Follows GOAWAY: opens the next connection while the current one still brings media, and hands over once the next one has
// caught up with what is being shown. Owns the tries and their limits; what is shown stays with the lanes, which both feed.

import type { Kind } from './catalog.js';
import type { Lane } from './lane.js';
import type { Leg } from './leg.js';
import { MoveLimit, destinationOf, optionsFor, patience, spread } from './move.js';
import type { EngineOptions } from './protocol.js';

/** First pause before another try; doubles with each. */
const RETRY_MS = 1000;
/** How long a relay that does not say is taken to wait. */
const TIMEOUT_MS = 30_000;

/** The engine, as far as a move concerns it. */
export interface Roaming {
  readonly leg: Leg | null;
  readonly options: EngineOptions | null;
  readonly lanes: ReadonlyMap<Kind, Lane>;
  connect(options: EngineOptions): Leg;
  /** The next connection is the current one from here. */
  adopt(next: Leg): void;
  /** Where to go should the current connection end first. */
  aim(options: EngineOptions): void;
}

export class Mover {
  next: Leg | null = null;
  #limit = new MoveLimit();
  #task: Promise<void> | null = null;
  #decide: ((moved: boolean) => void) | null = null;
  #wake: (() => void) | null = null;
  #currentEnded = false;
  #stopped = false;

  constructor(readonly host: Roaming) {}

  /** The relay of the current connection wants us elsewhere. */
  sentAway(uri: string, timeoutMs: number): void {
    if (!this.#task) this.#task = this.#follow(uri, timeoutMs).finally(() => (this.#task = null));
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
      if (!this.#currentEnded && leg?.tracks.get(kind)?.subscription == null) continue;
      const caughtUp = this.#currentEnded
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
      if ((await this.#try(there, until - Date.now())) || this.#currentEnded) return;
      await this.#pause(pause);
    }
  }

  async #try(options: EngineOptions, leftMs: number): Promise<boolean> {
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
    }, patience(leftMs));
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
