// BroadcastViewer: watches one broadcast in one video element. Owns the state that people are shown, the statistics and
// the token; the network and the buffers belong to the engine, the element to its playback.

import type { Kind } from './catalog.js';
import { DRAFT } from './connection.js';
import { Emitter, type ViewerEvents } from './events.js';
import { GlassToGlass, type Percentiles } from './glass.js';
import { type Host, defaultWorkerUrl, startHost } from './host.js';
import { LatencyControl } from './latency.js';
import { Playback } from './playback.js';
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
  /**
   * Other relays that have the broadcast, `https://host:port`, with `#cert-sha256=…` where the certificate is pinned: when
   * the relay in use falls silent, the viewer goes on at another one.
   */
  addresses?: readonly string[];
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
  /** Times we went on at another relay: handed over by one that was drained, or away from one that fell silent. */
  moves: number;
  firstFrameMs: number | null;
  tracks: Partial<Record<Kind, TrackStats>>;
}

export const LATENCY_DEFAULT_MS = 300;
const LATENCY_MAX_MS = 30_000;
const STEP_MS = 100;
const TOKEN_WARNING_S = 60;
const TOKEN_PAUSE_MS = 10_000;

const NOTHING: EngineStats = { draft: DRAFT, rttMs: null, connectMs: null, reconnects: 0, moves: 0, stalls: 0, tracks: {} };

export class BroadcastViewer extends Emitter<ViewerEvents> {
  #playback: Playback | null = null;
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
  #told = 0;
  #tokenWarned = false;

  constructor(options: ViewerOptions = {}) {
    super();
    this.#options = { ...options };
    this.#control = new LatencyControl(clampLatency(options.latency));
  }

  /** The element to play in; give it before `play`. */
  attach(video: HTMLVideoElement): void {
    this.detach();
    this.#playback = new Playback(video, this.#control, this.#glass, {
      onChange: () => this.#refresh(),
      onStall: (count) => this.emit('stall', { count }),
      onMuted: () => this.emit('autoplaymuted', {}),
      onRefused: (reason) => this.#host?.send({ kind: 'media-error', reason }),
    });
  }

  /** Lets go of the element. */
  detach(): void {
    this.#playback?.dispose();
    this.#playback = null;
  }

  /** Gives what is being watched a new token; nothing is cut. Throws `SourceError` when it is damaged. */
  renew(token: string): void {
    if (!this.#source) return;
    const run = this.#run;
    this.#source = withToken(this.#source, token);
    this.#host?.send({ kind: 'token', source: this.#source, token });
    // A token that is short-lived itself is not renewed ten times a second.
    setTimeout(() => {
      if (run === this.#run) this.#tokenWarned = false;
    }, TOKEN_PAUSE_MS);
  }

  /** Watches a playback URL, or an id together with `base` and `getToken`. */
  play(idOrUrl: string): void {
    this.stop();
    const run = this.#run;
    this.#playback?.begin();
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
    const { base, getToken, worker, certificateSha256, certificateUrl, addresses } = this.#options;
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
        addresses: addresses ?? [],
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
    this.#playback?.empty();
    this.#engine = NOTHING;
    this.#glass.clear();
    this.#control.clear();
    this.#tokenWarned = false;
    this.#setState('idle', '');
  }

  /** Pauses; there is no rewind, so going on means going on live. */
  pause(): void {
    this.#playback?.pause();
  }

  resume(): void {
    this.#playback?.resume();
  }

  /** Jumps to the live edge. */
  goLive(): void {
    this.#playback?.goLive();
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
    return this.#playback?.behindMs ?? 0;
  }

  /** One number a second for the last minute. */
  latencyHistory(): (number | null)[] {
    return this.#glass.history(Date.now());
  }

  get stats(): ViewerStats {
    const playback = this.#playback;
    const video = playback?.video;
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
      bufferMs: Math.round(playback?.aheadMs ?? 0),
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
      rebuffers: playback?.rebuffers ?? 0,
      jumps: playback?.jumps ?? 0,
      reconnects: this.#engine.reconnects,
      moves: this.#engine.moves,
      firstFrameMs: round(playback?.firstFrameMs ?? null),
      tracks,
    };
  }

  // From the engine.

  #onEngine(message: FromEngine): void {
    switch (message.kind) {
      case 'media':
        this.#playback?.point(message.media);
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
    if (phase !== 'live') this.#playback?.pardon();
    if (phase === 'auth failed' || phase === 'failed') {
      // The last picture is not to be mistaken for the present.
      this.#playback?.video.pause();
      const code = phase === 'auth failed' ? 'auth_failed' : 'media_failed';
      this.emit('error', { code, fatal: true, transport: 'webtransport', retryable: false, message: reason });
    } else if (phase === 'reconnecting') {
      const code = 'connection_lost';
      this.emit('error', { code, fatal: false, transport: 'webtransport', retryable: true, message: reason });
    }
    this.#refresh();
  }

  /** Ten times a second. */
  #step(): void {
    const playback = this.#playback;
    if (playback) {
      playback.step();
      this.#host?.send({ kind: 'position', seconds: playback.video.currentTime, aheadMs: playback.aheadMs });
    }
    this.#checkToken();
    this.#refresh();
    const now = performance.now();
    if (now - this.#told >= 500 && this.#state === 'playing') {
      this.#told = now;
      this.emit('latency', { now: round(this.#glass.latest), target: this.#control.target });
    }
  }

  // State and token.

  #refresh(): void {
    if (this.#state === 'idle' && !this.#timer) return;
    const [state, reason] = this.#judge();
    this.#setState(state, reason);
  }

  #judge(): [State, string] {
    const playback = this.#playback;
    // What is buffered plays on, whatever happens to the session.
    const playing = playback?.isPlaying === true;
    switch (this.#phase) {
      case 'auth failed':
      case 'failed':
      case 'offline':
        return [this.#phase, this.#phaseReason];
      case 'connecting':
        return ['connecting', ''];
      case 'ended':
      case 'reconnecting':
        return playing ? ['playing', ''] : [this.#phase, this.#phaseReason];
      case 'waiting':
        return playing ? ['playing', ''] : ['stalled', 'The publisher sends nothing.'];
      case 'live':
        if (playback?.isPaused) return ['paused', ''];
        return playback?.isRunning ? ['playing', ''] : ['buffering', ''];
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
        if (run === this.#run) this.renew(token);
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
