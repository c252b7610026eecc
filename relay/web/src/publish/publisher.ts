// `BroadcastPublisher`: a MediaStream of a page to an input. It chooses how (WebCodecs over MoQT, in a worker where
// possible; WHIP where the browser cannot hand out frames) and tells state and statistics; the work is the studio's.

import { Emitter } from '../viewer/events.js';
import { startWorker, type WorkerHost } from '../worker-host.js';
import type { FromStudio, State, Stats, StudioOptions, ToStudio, Trouble } from './protocol.js';
import { Studio, troubleOf } from './studio.js';
import { Whip } from './whip.js';

declare const __WEIR_SCRIPT_URL__: string;

const WHIP_STATS_MS = 500;

export interface PublisherOptions {
  /** `https://host:port` of the node's QUIC port. */
  relay: string;
  /** SHA-256 of its certificate in hex, where it is self-signed. */
  certificateSha256?: string | null;
  /** `https://host:port` of its pages, for WHIP; the page's own origin unless told. */
  whip?: string;
  /** How far keyframes are apart: a group's length. */
  keyframeMs?: number;
  videoBitrate?: number;
  audioBitrate?: number;
  /** How long attempts to come back go on: the input's reconnect window. */
  reconnectMs?: number;
  /** Where the worker is; null for none. */
  workerUrl?: string | null;
  transport?: 'auto' | 'moqt' | 'whip';
}

export interface PublisherEvents {
  statechange: { state: State; trouble: Trouble | null; retryInMs: number | null };
  stats: Stats;
}

type Host = WorkerHost<ToStudio>;

interface ProcessorConstructor {
  new (init: { track: MediaStreamTrack }): { readable: ReadableStream };
}

export class BroadcastPublisher extends Emitter<PublisherEvents> {
  #host: Host | null = null;
  #whip: Whip | null = null;
  #whipTimer: ReturnType<typeof setInterval> | undefined;
  #state: State = 'idle';
  #stats: Stats | null = null;
  #transport: 'moqt' | 'whip' = 'moqt';
  #inWorker = false;
  #run = 0;
  #clones: MediaStreamTrack[] = [];
  /** The other way to publish, as long as it was not tried. */
  #instead: (() => void) | null = null;

  constructor(readonly options: PublisherOptions) {
    super();
  }

  get state(): State {
    return this.#state;
  }

  /** As last told, or null. */
  get stats(): Stats | null {
    return this.#stats;
  }

  /** What carries the broadcast. */
  get transport(): 'moqt' | 'whip' {
    return this.#transport;
  }

  get inWorker(): boolean {
    return this.#inWorker;
  }

  /** Whether this browser can hand out the frames of a camera and encode them. */
  static canEncode(): boolean {
    return (
      typeof WebTransport === 'function' &&
      typeof VideoEncoder === 'function' &&
      typeof AudioEncoder === 'function' &&
      'MediaStreamTrackProcessor' in globalThis
    );
  }

  /**
   * Publishes `mediaStream` to an input. Its tracks stay the caller's: they are not stopped. Left to choose, it goes by WHIP
   * where the browser hands out no frames, and where the input turns out to take WHIP.
   */
  async publish(id: string, key: string, mediaStream: MediaStream): Promise<void> {
    if (!['idle', 'ended', 'failed'].includes(this.#state)) throw new Error('publishing already');
    const run = ++this.#run;
    const { transport = 'auto' } = this.options;
    this.#instead = transport === 'auto' ? () => void this.#startWhip(id, key, mediaStream, run) : null;
    this.#transport = transport === 'whip' || (transport === 'auto' && !BroadcastPublisher.canEncode()) ? 'whip' : 'moqt';
    this.#set('connecting', null, null);
    if (this.#transport === 'whip') return this.#startWhip(id, key, mediaStream, run);
    const [video] = mediaStream.getVideoTracks();
    const [audio] = mediaStream.getAudioTracks();
    const url = new URL(`/publish/${encodeURIComponent(id)}`, this.options.relay);
    url.searchParams.set('sk', key);
    const options: StudioOptions = {
      url: url.href,
      namespace: ['publish', id],
      certificateSha256: this.options.certificateSha256 ?? null,
      keyframeMs: this.options.keyframeMs ?? 1000,
      videoBitrate: this.options.videoBitrate ?? 2_500_000,
      audioBitrate: this.options.audioBitrate ?? 96_000,
      reconnectMs: this.options.reconnectMs ?? 30_000,
      video: video ? this.#framesOf(video) : null,
      audio: audio ? this.#framesOf(audio) : null,
    };
    const host = await this.#startHost();
    if (run !== this.#run) return host.stop();
    this.#host = host;
    host.send({ kind: 'start', options }, [options.video, options.audio].filter((stream) => stream !== null));
  }

  /** Ends the broadcast; the input's viewers are held for its reconnect window. */
  stop(): void {
    this.#run += 1;
    this.#release();
    if (['connecting', 'live', 'reconnecting'].includes(this.#state)) this.#set('ended', null, null);
  }

  #listen(message: FromStudio): void {
    if (message.kind === 'stats') {
      this.#stats = message.stats;
      this.emit('stats', message.stats);
    } else if (message.kind === 'state') {
      const { state, trouble, retryInMs } = message;
      const instead = this.#instead;
      if (instead && state === 'failed' && trouble?.code === 'input_disabled') return instead();
      if (state === 'live') this.#instead = null;
      this.#set(state, trouble, retryInMs);
    }
  }

  /** Ends worker, connection, clock and clones, whichever there are. */
  #release(): void {
    this.#instead = null;
    this.#host?.stop();
    this.#host = null;
    clearInterval(this.#whipTimer);
    void this.#whip?.stop();
    this.#whip = null;
    for (const track of this.#clones.splice(0)) track.stop();
  }

  #set(state: State, trouble: Trouble | null, retryInMs: number | null): void {
    if (this.#state === state && trouble === null && state !== 'connecting') return;
    this.#state = state;
    if (state === 'ended' || state === 'failed') this.#release();
    this.emit('statechange', { state, trouble, retryInMs });
  }

  #framesOf(track: MediaStreamTrack): ReadableStream {
    const { MediaStreamTrackProcessor: Processor } = globalThis as unknown as { MediaStreamTrackProcessor: ProcessorConstructor };
    // A track of its own, so that ending the broadcast does not end the caller's preview.
    const clone = track.clone();
    this.#clones.push(clone);
    return new Processor({ track: clone }).readable;
  }

  async #startHost(): Promise<Host> {
    const { workerUrl = new URL('publish-worker.js', __WEIR_SCRIPT_URL__).href } = this.options;
    const run = this.#run;
    const listen = (message: FromStudio): void => {
      if (run === this.#run) this.#listen(message);
    };
    const failed = (message: string): FromStudio => {
      const trouble = { code: 'worker_failed', message: `The publisher's worker failed: ${message}` };
      return { kind: 'state', state: 'failed', trouble, retryInMs: null };
    };
    const terms = { name: 'weir-publisher', listen, failed, goodbyeMs: 1000 };
    const worker = workerUrl === null ? null : await startWorker<ToStudio, FromStudio>(workerUrl, terms);
    this.#inWorker = worker !== null;
    if (worker) return worker;
    const studio = new Studio(listen);
    return { send: (message) => studio.handle(message), stop: () => studio.handle({ kind: 'stop' }) };
  }

  async #startWhip(id: string, key: string, stream: MediaStream, run: number): Promise<void> {
    const { transport = 'auto' } = this.options;
    const best = transport === 'auto' && BroadcastPublisher.canEncode() ? 'moqt' : 'whip';
    this.#release();
    this.#transport = 'whip';
    this.#inWorker = false;
    const whip = new Whip();
    this.#whip = whip;
    try {
      await whip.start(new URL(`/whip/${encodeURIComponent(id)}`, this.options.whip ?? location.origin).href, key, stream);
    } catch (error) {
      if (run === this.#run) this.#set('failed', troubleOf(error instanceof Error ? error.message : String(error), best), null);
      return;
    }
    if (run !== this.#run) return;
    this.#set('live', null, null);
    let before = 0;
    this.#whipTimer = setInterval(async () => {
      const now = await whip.stats();
      if (run !== this.#run) return;
      const bitrate = ((now.bytesSent - before) * 8000) / WHIP_STATS_MS;
      before = now.bytesSent;
      const { fps, width, height, rttMs, videoCodec, audioCodec } = now;
      const held = { target: 0, queuedMs: 0, framesDropped: 0, groupsDropped: 0, reconnects: 0 };
      this.#listen({ kind: 'stats', stats: { bitrate, fps, width, height, rttMs, videoCodec, audioCodec, ...held } });
    }, WHIP_STATS_MS);
    void whip.ended.then((reason) => {
      if (run === this.#run) this.#set('failed', troubleOf(reason, best), null);
    });
  }
}
