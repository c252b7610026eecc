// BroadcastViewer: watches one broadcast in one video element. Owns the element's playback (start, rate, jumps, gaps),
// the state that people are shown and the statistics; the network and the buffers belong to the engine.

import type { Kind } from './catalog.js';
import { DRAFT } from './connection.js';
import { Emitter, type ViewerEvents } from './events.js';
import { GlassToGlass, type Percentiles } from './glass.js';
import { type Host, defaultWorkerUrl, startHost } from './host.js';
import { LatencyControl } from './latency.js';
import type { CatalogSummary, EngineStats, FromEngine, Phase, TrackStats } from './protocol.js';
import { mediaSourceClass } from './sink.js';
import { type Source, SourceError, parseSource, withToken } from './source.js';

export type State =
  | 'idle'
  | 'connecting'
  | 'buffering'
  | 'playing'
  | 'paused'
  | 'stalled'
  | 'reconnecting'
  | 'offline'
  | 'ended'
  | 'auth failed'
  | 'failed';

export interface ViewerOptions {
  /** Capture to picture, in ms. */
  latency?: number;
  /** SHA-256 of the relay's certificate, hex, when it is self-signed. */
  certificateSha256?: string | null;
  /** Where that hash can be asked for again, for example `/certificate.sha256`. */
  certificateUrl?: string | null;
  /** Base of playback URLs, so that `play` takes a bare id. Needs `getToken`. */
  base?: string;
  /** Called when there is no token yet and when it is about to end. */
  getToken?: () => Promise<string>;
  /** URL of the worker script, or false to run on the page. */
  worker?: string | false;
}

export interface ViewerStats {
  state: State;
  reason: string;
  transport: 'webtransport';
  draft: string;
  worker: boolean;
  rttMs: number | null;
  connectMs: number | null;
  /** Of the last frame shown. */
  latencyMs: number | null;
  latencyTargetMs: number;
  glassToGlass: Percentiles;
  bufferMs: number;
  bufferTargetMs: number;
  playbackRate: number;
  groupsReceived: number;
  groupsSkipped: number;
  droppedFrames: number;
  totalFrames: number;
  bytes: number;
  bitrate: number;
  resolution: { width: number; height: number } | null;
  tokenSecondsLeft: number | null;
  /** Times the network or the publisher went silent. */
  stalls: number;
  /** Times playback stopped for want of media after the first frame. */
  rebuffers: number;
  jumps: number;
  reconnects: number;
  firstFrameMs: number | null;
  tracks: Partial<Record<Kind, TrackStats>>;
}

export const LATENCY_DEFAULT_MS = 300;
const LATENCY_MAX_MS = 30_000;
const STEP_MS = 100;
/** Media needed before the first picture: a few frames. */
const START_S = 0.08;
/** A playhead that has not moved for this long with nothing ahead is stuck, not between two frames. */
const STUCK_MS = 150;
const SEEK_STUCK_MS = 1000;
/** In front of a gap a browser may leave this much unplayed: it wants more to go on with. */
const GAP_AHEAD_S = 0.3;
/** A wait this soon after a jump belongs to it and is no underrun. */
const JUMP_SPAN_MS = 500;
const TOKEN_WARNING_S = 60;
const TOKEN_PAUSE_MS = 10_000;

const NOTHING: EngineStats = { draft: DRAFT, rttMs: null, connectMs: null, reconnects: 0, stalls: 0, tracks: {} };

export class BroadcastViewer extends Emitter<ViewerEvents> {
  #video: HTMLVideoElement | null = null;
  #options: ViewerOptions;
  #source: Source | null = null;
  #host: Host | null = null;
  /** Grows with every `play` and `stop`, so that answers to an older one are recognised. */
  #run = 0;
  #phase: Phase = 'connecting';
  #phaseReason = '';
  #retryInMs: number | null = null;
  #state: State = 'idle';
  #reason = '';
  #control: LatencyControl;
  #glass = new GlassToGlass();
  #engine: EngineStats = NOTHING;
  #catalog: CatalogSummary = [];
  #timer: ReturnType<typeof setInterval> | undefined;
  #frameCallback = 0;
  #objectUrl: string | null = null;
  #media: MediaSourceHandle | MediaSource | null = null;
  #playStarted = 0;
  #firstFrameMs: number | null = null;
  #started = false;
  #waiting = false;
  #pausedByUser = false;
  #stuck = { position: -1, since: 0 };
  #rebuffers = 0;
  #jumps = 0;
  #jumpedAt = -Infinity;
  /** Playback waits after an underrun that was charged to the path. */
  #underran = false;
  #told = 0;
  #tokenWarned = false;
  #detach: (() => void)[] = [];

  constructor(options: ViewerOptions = {}) {
    super();
    this.#options = { ...options };
    this.#control = new LatencyControl(clampLatency(options.latency));
  }

  /** The element to play in; give it before `play`. */
  attach(video: HTMLVideoElement): void {
    this.detach();
    this.#video = video;
    video.playsInline = true;
    video.preservesPitch = true;
    const listen = (name: string, run: () => void): void => {
      video.addEventListener(name, run);
      this.#detach.push(() => video.removeEventListener(name, run));
    };
    listen('waiting', () => this.#onWaiting());
    listen('playing', () => this.#onPlaying());
    listen('pause', () => this.#refresh());
    listen('error', () => this.#onMediaError());
    listen('play', () => this.#onPlay());
    const visible = (): void => {
      if (document.visibilityState === 'visible' && video.paused && !this.#pausedByUser) void this.#startElement();
    };
    document.addEventListener('visibilitychange', visible);
    addEventListener('pageshow', visible);
    this.#detach.push(
      () => document.removeEventListener('visibilitychange', visible),
      () => removeEventListener('pageshow', visible),
    );
    this.#watchFrames();
  }

  /** Lets go of the element. */
  detach(): void {
    for (const undo of this.#detach.splice(0)) undo();
    if (this.#video && this.#frameCallback) this.#video.cancelVideoFrameCallback?.(this.#frameCallback);
    this.#empty();
    this.#video = null;
  }

  /** Takes the media away from the element. */
  #empty(): void {
    if (this.#video && this.#media) {
      this.#video.removeAttribute('src');
      this.#video.srcObject = null;
      this.#video.load();
    }
    if (this.#objectUrl) URL.revokeObjectURL(this.#objectUrl);
    this.#objectUrl = null;
    this.#media = null;
  }

  /** Watches a playback URL, or an id together with `base` and `getToken`. */
  play(idOrUrl: string): void {
    this.stop();
    const run = this.#run;
    this.#playStarted = performance.now();
    this.#phase = 'connecting';
    this.#phaseReason = '';
    this.#timer = setInterval(() => this.#step(), STEP_MS);
    this.#refresh();
    this.#begin(idOrUrl, run).catch((error: unknown) => {
      if (run !== this.#run) return;
      const refused = error instanceof SourceError && error.code === 'auth_failed';
      this.#onPhase(refused ? 'auth failed' : 'failed', error instanceof Error ? error.message : String(error), null);
    });
  }

  async #begin(idOrUrl: string, run: number): Promise<void> {
    if (typeof WebTransport !== 'function') throw new Error('This browser has no WebTransport.');
    if (!mediaSourceClass()) throw new Error('This browser has no MediaSource.');
    const { base, getToken, worker, certificateSha256, certificateUrl } = this.#options;
    let text = idOrUrl;
    if (!idOrUrl.includes('/') && base !== undefined) {
      const token = getToken ? await getToken() : '';
      text = `${base.replace(/\/$/, '')}/playback/${idOrUrl}?tok=${encodeURIComponent(token)}`;
    }
    const source = parseSource(text, base);
    if (run !== this.#run) return;
    this.#source = source;
    const host = await startHost(worker === false ? null : (worker ?? defaultWorkerUrl()), (message) => {
      if (run === this.#run) this.#onEngine(message);
    });
    if (run !== this.#run) {
      host.stop();
      return;
    }
    this.#host = host;
    host.send({
      kind: 'start',
      options: {
        source,
        certificateSha256: certificateSha256 ?? null,
        certificateUrl: certificateUrl ? new URL(certificateUrl, location.href).href : null,
      },
    });
    this.emit('transportchange', { transport: 'webtransport', draft: DRAFT });
  }

  /** Ends the session and empties the element. */
  stop(): void {
    this.#run += 1;
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#host?.stop();
    this.#host = null;
    this.#source = null;
    this.#empty();
    this.#engine = NOTHING;
    this.#glass = new GlassToGlass();
    this.#control = new LatencyControl(this.#control.target);
    this.#started = false;
    this.#waiting = false;
    this.#pausedByUser = false;
    this.#firstFrameMs = null;
    this.#tokenWarned = false;
    this.#rebuffers = 0;
    this.#jumps = 0;
    this.#setState('idle', '');
  }

  /** Pauses; there is no rewind, so going on means going on live. */
  pause(): void {
    this.#pausedByUser = true;
    this.#video?.pause();
  }

  resume(): void {
    this.#pausedByUser = false;
    this.goLive();
    void this.#startElement();
  }

  /** Jumps to the live edge. */
  goLive(): void {
    const range = this.#lastRange();
    if (range) this.#jump(Math.max(range.start, range.end - this.#control.startFill / 1000));
    this.#control.settle(performance.now());
  }

  get latency(): number {
    return this.#control.target;
  }

  set latency(ms: number) {
    this.#control.target = clampLatency(ms);
  }

  get state(): State {
    return this.#state;
  }

  get reason(): string {
    return this.#reason;
  }

  /** When the next connection is tried, in ms from the moment of the state change. */
  get retryInMs(): number | null {
    return this.#retryInMs;
  }

  get catalog(): CatalogSummary {
    return this.#catalog;
  }

  /** How far behind the newest media we play, in ms. */
  get behindMs(): number {
    const range = this.#lastRange();
    return this.#video && range ? Math.max(0, (range.end - this.#video.currentTime) * 1000) : 0;
  }

  /** One number a second for the last minute. */
  latencyHistory(): (number | null)[] {
    return this.#glass.history(Date.now());
  }

  get stats(): ViewerStats {
    const video = this.#video;
    const quality = video?.getVideoPlaybackQuality?.();
    const tracks = this.#engine.tracks;
    const lanes = Object.values(tracks);
    const main = tracks.video ?? tracks.audio;
    const sum = (pick: (track: TrackStats) => number): number => lanes.reduce((total, track) => total + pick(track), 0);
    const expires = this.#source?.expiresMs ?? null;
    return {
      state: this.#state,
      reason: this.#reason,
      transport: 'webtransport',
      draft: this.#engine.draft,
      worker: this.#host?.inWorker ?? false,
      rttMs: this.#engine.rttMs,
      connectMs: this.#engine.connectMs,
      latencyMs: round(this.#glass.latest),
      latencyTargetMs: this.#control.target,
      glassToGlass: this.#glass.percentiles(Date.now()),
      bufferMs: Math.round(this.#aheadMs()),
      bufferTargetMs: Math.round(this.#control.bufferTarget),
      playbackRate: video?.playbackRate ?? 1,
      groupsReceived: main?.groupsReceived ?? 0,
      groupsSkipped: main?.groupsSkipped ?? 0,
      droppedFrames: quality?.droppedVideoFrames ?? 0,
      totalFrames: quality?.totalVideoFrames ?? 0,
      bytes: sum(({ bytes }) => bytes),
      bitrate: sum(({ bitrate }) => bitrate),
      resolution: video && video.videoWidth > 0 ? { width: video.videoWidth, height: video.videoHeight } : null,
      tokenSecondsLeft: expires === null ? null : Math.round((expires - Date.now()) / 1000),
      stalls: this.#engine.stalls,
      rebuffers: this.#rebuffers,
      jumps: this.#jumps,
      reconnects: this.#engine.reconnects,
      firstFrameMs: round(this.#firstFrameMs),
      tracks,
    };
  }

  // From the engine.

  #onEngine(message: FromEngine): void {
    switch (message.kind) {
      case 'media':
        this.#media = message.media;
        this.#started = false;
        this.#point();
        break;
      case 'phase':
        this.#onPhase(message.phase, message.reason, message.retryInMs);
        break;
      case 'catalog':
        this.#catalog = message.tracks;
        this.emit('catalog', { tracks: message.tracks });
        break;
      case 'chunk':
        this.#onChunk(message);
        break;
      case 'restarted':
        this.#control.forget();
        this.#glass.reset();
        break;
      case 'stats':
        this.#engine = message.stats;
        break;
      case 'ready':
        break;
    }
  }

  #onChunk({ track, media, captured, arrived, joining }: Extract<FromEngine, { kind: 'chunk' }>): void {
    // One track gives the times: pictures where there are some.
    if (track === 'audio' && this.#catalog.some(({ kind }) => kind === 'video')) return;
    if (!joining) this.#control.arrival(arrived, media, captured);
    if (captured !== null) this.#glass.capture(media, captured);
  }

  #onPhase(phase: Phase, reason: string, retryInMs: number | null): void {
    this.#phase = phase;
    this.#phaseReason = reason;
    this.#retryInMs = retryInMs;
    if (phase === 'reconnecting' || phase === 'connecting') this.#control.forget();
    if (phase !== 'live' && this.#underran) {
      this.#underran = false;
      this.#control.pardon();
    }
    if (phase === 'auth failed' || phase === 'failed') {
      // The last picture is not to be mistaken for the present.
      this.#video?.pause();
      const code = phase === 'auth failed' ? 'auth_failed' : 'media_failed';
      this.emit('error', { code, fatal: true, transport: 'webtransport', retryable: false, message: reason });
    } else if (phase === 'reconnecting') {
      const code = 'connection_lost';
      this.emit('error', { code, fatal: false, transport: 'webtransport', retryable: true, message: reason });
    }
    this.#refresh();
  }

  #point(): void {
    const video = this.#video;
    const media = this.#media;
    if (!video || !media) return;
    if (this.#objectUrl) URL.revokeObjectURL(this.#objectUrl);
    this.#objectUrl = null;
    // Phones give the managed source only to elements that do not offer AirPlay.
    if (!('MediaSource' in globalThis)) video.disableRemotePlayback = true;
    const onPage = typeof MediaSource === 'function' && media instanceof MediaSource;
    if (onPage) {
      this.#objectUrl = URL.createObjectURL(media as unknown as Blob);
      video.srcObject = null;
      video.src = this.#objectUrl;
    } else {
      video.removeAttribute('src');
      video.srcObject = media as unknown as MediaProvider;
    }
  }

  #onMediaError(): void {
    const error = this.#video?.error;
    if (!error || !this.#host) return;
    this.#host.send({ kind: 'media-error', reason: error.message || `media error ${error.code}` });
  }

  // The element.

  #onWaiting(): void {
    if (!this.#started || this.#waiting) return;
    this.#waiting = true;
    const byJump = performance.now() - this.#jumpedAt < JUMP_SPAN_MS;
    if (this.#firstFrameMs !== null && this.#video?.seeking === false && !byJump) {
      this.#rebuffers += 1;
      this.#control.underrun();
      this.#underran = true;
      this.emit('stall', { count: this.#rebuffers });
    }
    this.#refresh();
  }

  #onPlaying(): void {
    if (this.#waiting) this.#control.settle(performance.now());
    this.#underran = false;
    this.#waiting = false;
    this.#refresh();
  }

  /** Something other than us pressed play: the browser's own controls, a media key. */
  #onPlay(): void {
    if (this.#pausedByUser) {
      this.#pausedByUser = false;
      this.goLive();
    }
    this.#refresh();
  }

  async #startElement(): Promise<void> {
    const video = this.#video;
    if (!video) return;
    try {
      await video.play();
    } catch (error) {
      if (!(error instanceof DOMException) || error.name !== 'NotAllowedError' || video.muted) return;
      video.muted = true;
      this.emit('autoplaymuted', {});
      await video.play().catch(() => undefined);
    }
    this.#refresh();
  }

  #watchFrames(): void {
    const video = this.#video;
    if (!video || typeof video.requestVideoFrameCallback !== 'function') return;
    const painted = (now: number, frame: VideoFrameCallbackMetadata): void => {
      if (video !== this.#video) return;
      if (this.#firstFrameMs === null && this.#state !== 'idle') this.#firstFrameMs = now - this.#playStarted;
      this.#glass.frame(frame.mediaTime, Date.now() + (frame.expectedDisplayTime - performance.now()));
      this.#frameCallback = video.requestVideoFrameCallback(painted);
    };
    this.#frameCallback = video.requestVideoFrameCallback(painted);
  }

  /** Ten times a second: start, keep the distance to live, step over gaps, tell. */
  #step(): void {
    const now = performance.now();
    const video = this.#video;
    if (video && this.#media) {
      if (!this.#started) this.#tryStart(video, now);
      else if (!video.paused) this.#keepUp(video, now);
      this.#host?.send({ kind: 'position', seconds: video.currentTime, aheadMs: this.#aheadMs() });
    }
    this.#checkToken();
    this.#refresh();
    if (now - this.#told >= 500 && this.#state === 'playing') {
      this.#told = now;
      this.emit('latency', { now: round(this.#glass.latest), target: this.#control.target });
    }
  }

  #tryStart(video: HTMLVideoElement, now: number): void {
    const range = this.#lastRange();
    if (!range || range.end - range.start < START_S) return;
    this.#started = true;
    this.#waiting = true;
    this.#control.settle(now);
    video.currentTime = Math.max(range.start, range.end - this.#control.startFill / 1000);
    if (video.autoplay || video.paused) void this.#startElement();
  }

  #keepUp(video: HTMLVideoElement, now: number): void {
    const position = video.currentTime;
    const { buffered } = video;
    let end: number | null = null;
    let next: number | null = null;
    for (let index = 0; index < buffered.length; index += 1) {
      if (position >= buffered.start(index) - 0.01 && position <= buffered.end(index)) end = buffered.end(index);
      else if (next === null && buffered.start(index) > position) next = buffered.start(index);
    }
    if (position !== this.#stuck.position) this.#stuck = { position, since: now };
    const stuck = now - this.#stuck.since >= (video.seeking ? SEEK_STUCK_MS : STUCK_MS);
    if (stuck && next !== null && (end === null || end - position < GAP_AHEAD_S)) {
      // A group was skipped: its place on the timeline stays empty.
      this.#jump(next + 0.001);
      this.#control.settle(now);
      return;
    }
    if (end === null || video.seeking) return;
    const { rate, jump } = this.#control.step({ now, position, end: Math.max(end, next === null ? end : this.#edge()) });
    if (jump !== null) this.#jump(jump);
    if (video.playbackRate !== rate) video.playbackRate = rate;
  }

  #edge(): number {
    return this.#lastRange()?.end ?? 0;
  }

  #jump(to: number): void {
    const video = this.#video;
    if (!video) return;
    this.#jumps += 1;
    this.#jumpedAt = performance.now();
    video.currentTime = to;
  }

  #lastRange(): { start: number; end: number } | null {
    const buffered = this.#video?.buffered;
    if (!buffered || buffered.length === 0) return null;
    return { start: buffered.start(buffered.length - 1), end: buffered.end(buffered.length - 1) };
  }

  /** Media ahead of the playhead without a break, in ms. */
  #aheadMs(): number {
    const video = this.#video;
    if (!video) return 0;
    for (let index = 0; index < video.buffered.length; index += 1) {
      const end = video.buffered.end(index);
      if (video.currentTime >= video.buffered.start(index) - 0.01 && video.currentTime <= end) {
        return (end - video.currentTime) * 1000;
      }
    }
    return 0;
  }

  // State and token.

  #refresh(): void {
    if (this.#state === 'idle' && !this.#timer) return;
    const [state, reason] = this.#judge();
    this.#setState(state, reason);
  }

  #judge(): [State, string] {
    const running = this.#started && !this.#waiting && this.#aheadMs() > 0;
    switch (this.#phase) {
      case 'auth failed':
      case 'failed':
      case 'offline':
        return [this.#phase, this.#phaseReason];
      case 'ended':
        return running && this.#video?.paused === false ? ['playing', ''] : ['ended', this.#phaseReason];
      case 'connecting':
        return ['connecting', ''];
      case 'reconnecting':
        // What is buffered still plays.
        return running && this.#video?.paused === false ? ['playing', ''] : ['reconnecting', this.#phaseReason];
      case 'waiting':
        return running && this.#video?.paused === false ? ['playing', ''] : ['stalled', 'The publisher sends nothing.'];
      case 'live':
        if (this.#pausedByUser || (this.#started && this.#video?.paused === true)) return ['paused', ''];
        return this.#started && !this.#waiting ? ['playing', ''] : ['buffering', ''];
    }
  }

  #setState(state: State, reason: string): void {
    if (state === this.#state && reason === this.#reason) return;
    this.#state = state;
    this.#reason = reason;
    this.emit('statechange', { state, reason, retryInMs: this.#retryInMs });
  }

  #checkToken(): void {
    const source = this.#source;
    if (!source || source.expiresMs === null || this.#tokenWarned) return;
    // A renewal needs a subscription that it renews.
    if (this.#phase !== 'live') return;
    const seconds = (source.expiresMs - Date.now()) / 1000;
    if (seconds > TOKEN_WARNING_S) return;
    this.#tokenWarned = true;
    const { getToken } = this.#options;
    if (!getToken) {
      this.emit('tokenexpiring', { seconds: Math.max(0, Math.round(seconds)) });
      return;
    }
    const run = this.#run;
    getToken().then(
      (token) => {
        if (run !== this.#run || !this.#source) return;
        this.#source = withToken(this.#source, token);
        this.#host?.send({ kind: 'token', source: this.#source, token });
        // A token that is short-lived itself is not renewed ten times a second.
        setTimeout(() => {
          if (run === this.#run) this.#tokenWarned = false;
        }, TOKEN_PAUSE_MS);
      },
      (error: unknown) => {
        const message = error instanceof Error ? error.message : String(error);
        this.emit('error', { code: 'token_failed', fatal: false, transport: 'webtransport', retryable: true, message });
      },
    );
  }
}

function clampLatency(ms: number | undefined): number {
  if (ms === undefined || !Number.isFinite(ms)) return LATENCY_DEFAULT_MS;
  return Math.min(Math.max(ms, 0), LATENCY_MAX_MS);
}

function round(value: number | null): number | null {
  return value === null ? null : Math.round(value);
}
