// The video element as a live player uses it: start, distance to live, gaps, autoplay, pause. Owns the playhead and the
// media source in the element; knows neither sessions nor states, only what the element tells.

import type { GlassToGlass } from './glass.js';
import type { LatencyControl } from './latency.js';

export interface PlaybackEvents {
  /** Something that may change what people are told. */
  onChange(): void;
  /** Playback stopped for want of media, so many times by now. */
  onStall(count: number): void;
  /** The browser allowed playback only without sound. */
  onMuted(): void;
  /** The element refused what it was fed. */
  onRefused(reason: string): void;
}

/** Media needed before the first picture: a few frames. */
const START_S = 0.08;
/** A playhead that has not moved for this long with nothing ahead is stuck, not between two frames. */
const STUCK_MS = 150;
const SEEK_STUCK_MS = 1000;
/** In front of a gap a browser may leave this much unplayed: it wants more to go on with. */
const GAP_AHEAD_S = 0.3;
/** A wait this soon after a jump belongs to it and is no underrun. */
const JUMP_SPAN_MS = 500;
/** A playhead this little in front of a range is in it: timescales round. */
const EDGE_S = 0.01;

export class Playback {
  rebuffers = 0;
  jumps = 0;
  /** From `begin` to the first picture. */
  firstFrameMs: number | null = null;
  #media: MediaSourceHandle | MediaSource | null = null;
  #objectUrl: string | null = null;
  #begun: number | null = null;
  #started = false;
  #waiting = false;
  #pausedByUser = false;
  #jumpedAt = -Infinity;
  /** Playback waits after an underrun that was charged to the path. */
  #underran = false;
  #stuck = { position: -1, since: 0 };
  #frameCallback = 0;
  #undo: (() => void)[] = [];

  constructor(
    readonly video: HTMLVideoElement,
    readonly control: LatencyControl,
    readonly glass: GlassToGlass,
    readonly events: PlaybackEvents,
  ) {
    video.playsInline = true;
    video.preservesPitch = true;
    this.#listen(video, 'waiting', () => this.#onWaiting());
    this.#listen(video, 'playing', () => this.#onPlaying());
    this.#listen(video, 'pause', () => events.onChange());
    this.#listen(video, 'error', () => this.#onError());
    this.#listen(video, 'play', () => this.#onPlay());
    const visible = (): void => {
      const shown = document.visibilityState === 'visible';
      if (shown && this.#started && video.paused && !this.#pausedByUser) void this.#start();
    };
    this.#listen(document, 'visibilitychange', visible);
    this.#listen(globalThis, 'pageshow', visible);
    this.#watchFrames();
  }

  dispose(): void {
    for (const undo of this.#undo.splice(0)) undo();
    if (this.#frameCallback) this.video.cancelVideoFrameCallback?.(this.#frameCallback);
    this.empty();
  }

  /** A viewer starts to wait for a picture. */
  begin(): void {
    this.#begun = performance.now();
  }

  /** Takes the media away from the element and forgets how it went. */
  empty(): void {
    if (this.#media) {
      this.video.removeAttribute('src');
      this.video.srcObject = null;
      this.video.load();
    }
    this.#revoke();
    this.#media = null;
    this.#begun = null;
    this.#started = false;
    this.#waiting = false;
    this.#pausedByUser = false;
    this.#underran = false;
    this.firstFrameMs = null;
    this.rebuffers = 0;
    this.jumps = 0;
  }

  /** Points the element at a media source. */
  point(media: MediaSourceHandle | MediaSource): void {
    const { video } = this;
    this.#revoke();
    this.#media = media;
    this.#started = false;
    // Phones give the managed source only to elements that do not offer AirPlay.
    if (!('MediaSource' in globalThis)) video.disableRemotePlayback = true;
    if (typeof MediaSource === 'function' && media instanceof MediaSource) {
      this.#objectUrl = URL.createObjectURL(media as unknown as Blob);
      video.srcObject = null;
      video.src = this.#objectUrl;
    } else {
      video.removeAttribute('src');
      video.srcObject = media as unknown as MediaProvider;
    }
  }

  /** Media has started and is not waiting for more. */
  get isRunning(): boolean {
    return this.#started && !this.#waiting;
  }

  get isPaused(): boolean {
    return this.#pausedByUser || (this.#started && this.video.paused);
  }

  /** The picture moves, whatever happens elsewhere. */
  get isPlaying(): boolean {
    return this.isRunning && !this.video.paused && this.aheadMs > 0;
  }

  /** Media ahead of the playhead without a break, in ms. */
  get aheadMs(): number {
    const { end } = this.#ranges();
    return end === null ? 0 : Math.max(0, end - this.video.currentTime) * 1000;
  }

  /** Distance to the newest media, in ms. */
  get behindMs(): number {
    const last = this.#last();
    return last ? Math.max(0, last.end - this.video.currentTime) * 1000 : 0;
  }

  /** There is no rewind: going on means going on live. */
  pause(): void {
    this.#pausedByUser = true;
    this.video.pause();
  }

  resume(): void {
    this.#pausedByUser = false;
    this.goLive();
    void this.#start();
  }

  goLive(): void {
    const last = this.#last();
    if (last) this.#jump(Math.max(last.start, last.end - this.control.startFill / 1000));
    this.control.settle(performance.now());
  }

  /** The underrun of this moment was not the path's doing. */
  pardon(): void {
    if (this.#underran) this.control.pardon();
    this.#underran = false;
  }

  /** Ten times a second: start, keep the distance to live, step over gaps. */
  step(): void {
    const now = performance.now();
    if (!this.#media) return;
    if (!this.#started) this.#tryStart(now);
    else if (!this.video.paused) this.#keepUp(now);
  }

  #tryStart(now: number): void {
    const last = this.#last();
    if (!last || last.end - last.start < START_S) return;
    this.#started = true;
    this.#waiting = true;
    this.control.settle(now);
    this.video.currentTime = Math.max(last.start, last.end - this.control.startFill / 1000);
    if (!this.#pausedByUser) void this.#start();
  }

  #keepUp(now: number): void {
    const { video } = this;
    const position = video.currentTime;
    const { end, next } = this.#ranges();
    if (position !== this.#stuck.position) this.#stuck = { position, since: now };
    const stuck = now - this.#stuck.since >= (video.seeking ? SEEK_STUCK_MS : STUCK_MS);
    if (stuck && next !== null && (end === null || end - position < GAP_AHEAD_S)) {
      // A group was skipped: its place on the timeline stays empty.
      this.#jump(next + 0.001);
      this.control.settle(now);
      return;
    }
    if (end === null || video.seeking) return;
    // Media beyond a gap counts: what is to be jumped over is not worth waiting for.
    const edge = next === null ? end : (this.#last()?.end ?? end);
    const { rate, jump } = this.control.step({ now, position, end: edge });
    if (jump !== null) this.#jump(jump);
    if (video.playbackRate !== rate) video.playbackRate = rate;
  }

  #jump(to: number): void {
    this.jumps += 1;
    this.#jumpedAt = performance.now();
    this.video.currentTime = to;
  }

  async #start(): Promise<void> {
    const { video } = this;
    try {
      await video.play();
    } catch (error) {
      if (!(error instanceof DOMException) || error.name !== 'NotAllowedError' || video.muted) return;
      video.muted = true;
      this.events.onMuted();
      await video.play().catch(() => undefined);
    }
    this.events.onChange();
  }

  #onWaiting(): void {
    if (!this.#started || this.#waiting) return;
    this.#waiting = true;
    const byJump = performance.now() - this.#jumpedAt < JUMP_SPAN_MS;
    if (this.firstFrameMs !== null && !this.video.seeking && !byJump) {
      this.rebuffers += 1;
      this.control.underrun();
      this.#underran = true;
      this.events.onStall(this.rebuffers);
    }
    this.events.onChange();
  }

  #onPlaying(): void {
    if (this.#waiting) this.control.settle(performance.now());
    this.#underran = false;
    this.#waiting = false;
    this.events.onChange();
  }

  /** Something other than us pressed play: the browser's own controls, a media key. */
  #onPlay(): void {
    if (this.#pausedByUser) {
      this.#pausedByUser = false;
      this.goLive();
    }
    this.events.onChange();
  }

  #onError(): void {
    const { error } = this.video;
    if (error && this.#media) this.events.onRefused(error.message || `media error ${error.code}`);
  }

  #watchFrames(): void {
    const { video } = this;
    if (typeof video.requestVideoFrameCallback !== 'function') return;
    const painted = (now: number, frame: VideoFrameCallbackMetadata): void => {
      if (this.firstFrameMs === null && this.#begun !== null) this.firstFrameMs = now - this.#begun;
      this.glass.frame(frame.mediaTime, Date.now() + (frame.expectedDisplayTime - performance.now()));
      this.#frameCallback = video.requestVideoFrameCallback(painted);
    };
    this.#frameCallback = video.requestVideoFrameCallback(painted);
  }

  /** End of the range the playhead is in, and start of the next one, in seconds. */
  #ranges(): { end: number | null; next: number | null } {
    const { buffered, currentTime } = this.video;
    let end: number | null = null;
    let next: number | null = null;
    for (let index = 0; index < buffered.length; index += 1) {
      const start = buffered.start(index);
      if (currentTime >= start - EDGE_S && currentTime <= buffered.end(index)) end = buffered.end(index);
      else if (next === null && start > currentTime) next = start;
    }
    return { end, next };
  }

  #last(): { start: number; end: number } | null {
    const { buffered } = this.video;
    const index = buffered.length - 1;
    return index < 0 ? null : { start: buffered.start(index), end: buffered.end(index) };
  }

  #revoke(): void {
    if (this.#objectUrl) URL.revokeObjectURL(this.#objectUrl);
    this.#objectUrl = null;
  }

  #listen(target: EventTarget, name: string, run: () => void): void {
    target.addEventListener(name, run);
    this.#undo.push(() => target.removeEventListener(name, run));
  }
}
