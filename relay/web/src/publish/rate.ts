// How much a publisher sends: what path and encoder can take decides, the bitrate gives way first, then the frame rate, and
// both come back. Sans-IO: looks come in with their time, a setting comes out.

/** What is to be sent. */
export interface Setting {
  /** Of the picture, in b/s. */
  bitrate: number;
  /** Every how manieth frame is encoded. */
  every: number;
}

/** What was seen. */
export interface Look {
  nowMs: number;
  /** How long what waits for the path takes at the current bitrate. */
  queuedMs: number;
  /** Frames that wait for the encoder. */
  encoderQueue: number;
}

/** The path is too narrow when this much waits: a round trip and a keyframe fit below. */
const QUEUED_MAX_MS = 350;
/** All is well below this. */
const QUEUED_WELL_MS = 120;
/** More frames than this in the encoder are not a keyframe's moment but a machine that is too slow. */
const ENCODER_QUEUE_MAX = 3;
/** A step down must show before the next; a step up waits for a longer calm. */
const DOWN_EVERY_MS = 1000;
const UP_AFTER_MS = 4000;
const DOWN = 0.7;
const UP = 1.25;
/** Below a sixth of what was wanted, fewer pictures look better than worse ones. */
const BITRATE_SHARE_MIN = 1 / 6;
const EVERY_MAX = 4;

export class Rate {
  #setting: Setting;
  #changed = -Infinity;
  #calmSince: number | null = null;

  constructor(readonly wanted: number) {
    this.#setting = { bitrate: wanted, every: 1 };
  }

  get setting(): Setting {
    return this.#setting;
  }

  /** The new setting, or null when it stays. */
  look({ nowMs, queuedMs, encoderQueue }: Look): Setting | null {
    if (queuedMs > QUEUED_MAX_MS || encoderQueue > ENCODER_QUEUE_MAX) {
      this.#calmSince = null;
      return nowMs - this.#changed < DOWN_EVERY_MS ? null : this.#down(nowMs);
    }
    if (queuedMs > QUEUED_WELL_MS) {
      this.#calmSince = null;
      return null;
    }
    this.#calmSince ??= nowMs;
    const calm = nowMs - Math.max(this.#calmSince, this.#changed);
    return calm < UP_AFTER_MS ? null : this.#up(nowMs);
  }

  #down(nowMs: number): Setting | null {
    const { bitrate, every } = this.#setting;
    const least = this.wanted * BITRATE_SHARE_MIN;
    if (bitrate > least) return this.#set({ bitrate: Math.max(least, bitrate * DOWN), every }, nowMs);
    if (every < EVERY_MAX) return this.#set({ bitrate, every: every * 2 }, nowMs);
    return null;
  }

  #up(nowMs: number): Setting | null {
    const { bitrate, every } = this.#setting;
    if (every > 1) return this.#set({ bitrate, every: every / 2 }, nowMs);
    if (bitrate < this.wanted) return this.#set({ bitrate: Math.min(this.wanted, bitrate * UP), every }, nowMs);
    return null;
  }

  #set(setting: Setting, nowMs: number): Setting {
    this.#changed = nowMs;
    this.#setting = { bitrate: Math.round(setting.bitrate), every: setting.every };
    return this.#setting;
  }
}
