// How close to live to play: from the buffer's fill to a playback rate, or to a jump. Owns the target and what it learns
// about the path (delay up to arrival, jitter, underruns); touches no element and reads no clock.
//
// The goal is a time from capture to picture. What the path takes of it cannot be won back here, so the buffer gets the
// rest, but never less than what jitter has been seen to need.

/** Deviations from normal speed: the large one is what speech survives with its pitch preserved. */
const RATE_LARGE = 0.05;
const RATE_SMALL = 0.025;
/** Above this the large one is used. */
const LARGE_OVER_MS = 200;
/**
 * A correction begins above the first and ends below the second. Few changes, because each costs a browser a few
 * milliseconds: chasing every deviation never arrives.
 */
const BEGIN_MS = 40;
const FINISH_MS = 8;
/** This far above the target, catching up at 1.05 takes half a minute: jump. */
const JUMP_OVER_MS = 1500;
/** Right after a start or a stall nobody is listening closely yet: jump early. */
const SETTLE_OVER_MS = 150;
const SETTLE_SPAN_MS = 1500;
/** Chromium starts, and goes on after a seek, only with 200 ms of sound in its queue: less only delays the start. */
const START_MS = 250;
/** Once running, this suffices. */
const FLOOR_MS = 100;
const FLOOR_MAX_MS = 3000;
/** Each underrun asks for this much more, and a minute without one gives back as much. */
const UNDERRUN_MS = 100;
const UNDERRUN_DECAY_PER_SECOND = UNDERRUN_MS / 60;
/** Arrivals looked at for jitter: 4 s of 30 chunks a second. Longer, and the burst of a starting encoder counts for long. */
const ARRIVALS_MAX = 120;
/** Two chunks in a row that differ by more than this belong to different timelines. */
const STEP_MS = 1000;
/** A delay outside this range says that the clocks differ, not how long the path is. */
const DELAY_PLAUSIBLE_MS = 10_000;
/** Smoothing of the fill, which saws by a chunk's length. */
const SMOOTHING_MS = 500;

export interface Reading {
  now: number;
  /** Media time shown, in seconds. */
  position: number;
  /** End of what can be played without a break, in seconds. */
  end: number;
}

export interface Advice {
  rate: number;
  /** Media time to jump to, in seconds. */
  jump: number | null;
}

export class LatencyControl {
  /** Capture to picture, in ms. */
  target: number;
  #fill: number | null = null;
  /** Of the playback rate from 1. */
  #deviation = 0;
  #last = 0;
  #settleUntil = 0;
  #underruns = 0;
  /** Arrival minus media time, and arrival minus capture, of recent chunks. */
  #arrivals: { lag: number; delay: number | null }[] = [];

  constructor(target: number) {
    this.target = target;
  }

  /** A chunk arrived at wall time `arrived`; `media` in seconds, `captured` in ms. */
  arrival(arrived: number, media: number, captured: number | null): void {
    const previous = this.#arrivals.at(-1);
    const lag = arrived - media * 1000;
    // A pause of the publisher, or a group skipped, moves the whole timeline: that is no jitter.
    if (previous && Math.abs(lag - previous.lag) > STEP_MS) this.#arrivals = [];
    this.#arrivals.push({ lag, delay: captured === null ? null : arrived - captured });
    if (this.#arrivals.length > ARRIVALS_MAX) this.#arrivals.shift();
  }

  /** Playback starts, or starts again. */
  settle(now: number): void {
    this.#settleUntil = now + SETTLE_SPAN_MS;
    this.#fill = null;
  }

  underrun(): void {
    this.#underruns = Math.min(this.#underruns + UNDERRUN_MS, FLOOR_MAX_MS);
  }

  /** The last underrun was not the path's doing: the publisher or the relay had gone. */
  pardon(): void {
    this.#underruns = Math.max(0, this.#underruns - UNDERRUN_MS);
  }

  /** Another broadcast: nothing learnt holds. */
  clear(): void {
    this.forget();
    this.#underruns = 0;
    this.#deviation = 0;
    this.#last = 0;
    this.#settleUntil = 0;
  }

  /** A new timeline or path: what was learnt of the old one is void. */
  forget(): void {
    this.#arrivals = [];
    this.#fill = null;
  }

  /** How much later than the quickest the slow ones come. */
  get jitter(): number {
    if (this.#arrivals.length < 30) return 0;
    const lags = this.#arrivals.map(({ lag }) => lag).sort((left, right) => left - right);
    const slow = lags[Math.floor(lags.length * 0.95)] ?? 0;
    return Math.max(0, slow - (lags[0] ?? 0));
  }

  /** From capture to arrival here; 0 when unknown. */
  get delay(): number {
    const delays = this.#arrivals.slice(-60).flatMap(({ delay }) => (delay === null ? [] : [delay]));
    if (delays.length === 0) return 0;
    const middle = delays.sort((left, right) => left - right)[delays.length >> 1] ?? 0;
    return middle >= 0 && middle < DELAY_PLAUSIBLE_MS ? middle : 0;
  }

  /** Fill to aim for, in ms. */
  get bufferTarget(): number {
    const floor = Math.min(FLOOR_MS + this.jitter + this.#underruns, FLOOR_MAX_MS);
    return Math.max(this.target - this.delay, floor);
  }

  /** Fill to start with, in ms. */
  get startFill(): number {
    return Math.max(this.bufferTarget, START_MS);
  }

  /** Smoothed fill, in ms. */
  get fill(): number {
    return this.#fill ?? 0;
  }

  step({ now, position, end }: Reading): Advice {
    const elapsed = this.#last === 0 ? 0 : Math.min(now - this.#last, 1000);
    this.#last = now;
    this.#underruns = Math.max(0, this.#underruns - (UNDERRUN_DECAY_PER_SECOND * elapsed) / 1000);
    const raw = (end - position) * 1000;
    const weight = this.#fill === null ? 1 : Math.min(1, elapsed / SMOOTHING_MS);
    this.#fill = (this.#fill ?? raw) + (raw - (this.#fill ?? raw)) * weight;
    const goal = this.bufferTarget;
    const limit = now < this.#settleUntil ? SETTLE_OVER_MS : JUMP_OVER_MS;
    // The fill of this moment decides about a jump, so that one is never followed by a second for the same reason.
    const start = this.startFill;
    if (Math.min(raw, this.#fill) > start + limit) {
      this.#fill = start;
      return { rate: 1, jump: end - start / 1000 };
    }
    this.#deviation = deviation(this.#fill - goal, this.#deviation);
    return { rate: 1 + this.#deviation, jump: null };
  }
}

/** The next deviation of the rate for an error of the fill, given the present one. */
function deviation(error: number, present: number): number {
  const size = Math.abs(error);
  const right = present !== 0 && Math.sign(present) === Math.sign(error);
  if (!right && size < BEGIN_MS) return 0;
  if (size < FINISH_MS) return 0;
  // Once large, it stays so until half the way is done.
  const large = size > LARGE_OVER_MS || (right && Math.abs(present) === RATE_LARGE && size > LARGE_OVER_MS / 2);
  return Math.sign(error) * (large ? RATE_LARGE : RATE_SMALL);
}
