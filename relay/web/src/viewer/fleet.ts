// The relays that have one broadcast, and how long the one it comes from has been silent. Owns the order in which a viewer
// tries the others and the count of silence; opens no session and knows no clock beyond the `now` it is told.

/** Addresses that are kept; more than anybody tries before a person has given up. */
export const ADDRESSES_MAX = 8;
/** Silence after which a relay is asked for a sign of life. */
const PROBE_AFTER_MS = 250;
/** While it answers and nothing else comes, it is asked less and less often. */
const PROBE_AFTER_MAX_MS = 1000;
/** A question that is not answered by then, while nothing else comes: the relay is silent. */
const SILENCE_MS = 600;
/** An answer takes one, a repeat comes after three. */
const ROUND_TRIPS = 3;
/** Most silence that one look adds: a page that was not given time cannot tell a dead relay from its own absence. */
const LOOK_MAX_MS = 200;
/** An audience that loses its relay at one moment spreads over this. */
const SPREAD_MS = 100;

/** What a viewer hears of its relay. */
export type Verdict = 'heard' | 'ask' | 'wait' | 'silent';

export class Silence {
  #heardAt = 0;
  #looked: number;
  #quiet = 0;
  #askAfter = PROBE_AFTER_MS;

  constructor(now: number) {
    this.#looked = now;
  }

  /** `heardAt`: when something came last; `asked`: a question is open; `live`: it was media that came. */
  look(now: number, heardAt: number, asked: boolean, live: boolean, rttMs: number): Verdict {
    const since = Math.min(Math.max(now - this.#looked, 0), LOOK_MAX_MS);
    this.#looked = now;
    if (heardAt > this.#heardAt) {
      this.#heardAt = heardAt;
      this.#quiet = 0;
      this.#askAfter = live ? PROBE_AFTER_MS : Math.min(this.#askAfter * 2, PROBE_AFTER_MAX_MS);
      return 'heard';
    }
    this.#quiet += since;
    if (!asked) return this.#quiet >= this.#askAfter ? 'ask' : 'wait';
    const answer = Math.max(SILENCE_MS - PROBE_AFTER_MS, ROUND_TRIPS * rttMs);
    return this.#quiet > this.#askAfter + answer ? 'silent' : 'wait';
  }
}

export class Fleet {
  #urls: string[];
  #next = 1;

  /** All addresses, the one where it begins first; the others are tried in an order of this viewer's own. */
  constructor(
    addresses: readonly string[],
    readonly chance: () => number = Math.random,
  ) {
    const known = new Set<string>();
    const urls = addresses.filter((address) => {
      const origin = originOf(address);
      if (origin === null || known.has(origin)) return false;
      known.add(origin);
      return true;
    });
    const [first, ...others] = urls.slice(0, ADDRESSES_MAX);
    for (let left = others.length; left > 1; left -= 1) {
      const at = Math.floor(chance() * left);
      const [one] = others.splice(at, 1);
      if (one !== undefined) others.push(one);
    }
    this.#urls = first === undefined ? [] : [first, ...others];
  }

  get hasOthers(): boolean {
    return this.#urls.length > 1;
  }

  /** How many tries give each other address its turn. */
  get others(): number {
    return this.#urls.length - 1;
  }

  /** The address to try next. */
  next(): string | null {
    const url = this.#urls[this.#next % Math.max(this.#urls.length, 1)];
    this.#next += 1;
    return url ?? null;
  }

  /** What is watched comes from here now. */
  moved(url: string): void {
    const origin = originOf(url);
    const at = this.#urls.findIndex((known) => originOf(known) === origin);
    if (at >= 0) this.#next = at + 1;
  }

  /** The pause before a try, so that not everybody makes it at one moment. */
  spread(): number {
    return this.chance() * SPREAD_MS;
  }
}

function originOf(address: string): string | null {
  try {
    const url = new URL(address.replace(/^moqt?:/, 'https:'));
    return url.protocol === 'https:' ? url.origin : null;
  } catch {
    return null;
  }
}
