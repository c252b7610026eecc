// Glass to glass: when was the picture that is shown now captured? Keeps the capture times that travelled in front of the
// chunks and answers by media time. Both clocks must agree: on one host they do; between hosts the figure is off by
// their difference, which a negative minimum betrays.

/** 60 s of 60 fps. */
const SAMPLES_MAX = 3600;
const CAPTURES_MAX = 3600;
/** The window of percentiles and of the sparkline. */
const WINDOW_MS = 60_000;
/** A frame belongs to the chunk that starts at most this much after it: rounding of timescales. */
const SLACK_S = 0.002;
/** Percentiles are worked out again at most this often. */
const RECOUNT_MS = 500;

export interface Percentiles {
  p50: number | null;
  p99: number | null;
  samples: number;
}

export class GlassToGlass {
  /** Media time in seconds and capture time in ms, ascending by media time. */
  #captures: { media: number; captured: number }[] = [];
  #samples: { at: number; ms: number }[] = [];
  #cached: { at: number; value: Percentiles } | null = null;

  capture(media: number, captured: number): void {
    const list = this.#captures;
    let at = list.length;
    while (at > 0 && (list[at - 1]?.media ?? 0) > media) at -= 1;
    list.splice(at, 0, { media, captured });
    if (list.length > CAPTURES_MAX) list.shift();
  }

  /** When the frame shown at `media` was captured. */
  captured(media: number): number | null {
    const list = this.#captures;
    let low = 0;
    let high = list.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((list[middle]?.media ?? 0) <= media + SLACK_S) low = middle + 1;
      else high = middle;
    }
    const found = list[low - 1];
    // Within a chunk, time passes as on the clock; a second behind it, the chunk is another one's.
    if (!found || media - found.media > 1) return null;
    return found.captured + Math.max(0, media - found.media) * 1000;
  }

  /** A frame of `media` is on the glass at wall time `shown`. */
  frame(media: number, shown: number): number | null {
    const captured = this.captured(media);
    if (captured === null) return null;
    const ms = shown - captured;
    this.#samples.push({ at: shown, ms });
    if (this.#samples.length > SAMPLES_MAX) this.#samples.shift();
    return ms;
  }

  get latest(): number | null {
    return this.#samples.at(-1)?.ms ?? null;
  }

  /** Over the last minute. */
  percentiles(now: number): Percentiles {
    if (this.#cached && now - this.#cached.at < RECOUNT_MS) return this.#cached.value;
    const recent = this.#samples.filter(({ at }) => now - at < WINDOW_MS).map(({ ms }) => ms);
    recent.sort((left, right) => left - right);
    const pick = (share: number): number | null => {
      const value = recent[Math.max(0, Math.ceil(share * recent.length) - 1)];
      return value === undefined ? null : Math.round(value);
    };
    const value = { p50: pick(0.5), p99: pick(0.99), samples: recent.length };
    this.#cached = { at: now, value };
    return value;
  }

  /** One number a second for the last minute, oldest first; null where nothing was shown. */
  history(now: number, seconds = 60): (number | null)[] {
    const bins: number[][] = Array.from({ length: seconds }, () => []);
    for (const { at, ms } of this.#samples) bins[seconds - 1 - Math.floor((now - at) / 1000)]?.push(ms);
    return bins.map((bin) => (bin.length === 0 ? null : bin.reduce((sum, ms) => sum + ms, 0) / bin.length));
  }

  /** Another broadcast, another account. */
  clear(): void {
    this.#captures = [];
    this.#samples = [];
    this.#cached = null;
  }

  /** The publisher's or the relay's clock may have changed with the session. */
  reset(): void {
    this.#captures = [];
  }
}
