// A publisher at work: encoders, groups, the session, and coming back when it breaks. It runs in a worker where it can, so
// that a page that is busy or hidden does not stop the broadcast. Owns the states; the page only shows them.

import { Groups } from './groups.js';
import { AudioLine, type Sink, VideoLine } from './encoders.js';
import type { FromStudio, State, StudioOptions, ToStudio, Trouble } from './protocol.js';
import { Rate } from './rate.js';
import { type Kind, Uplink } from './uplink.js';

const LOOK_MS = 250;
const STATS_EVERY = 2;
const PROBE_EVERY = 12;
/** So much waits that it is worth less than what comes next. */
const SKIP_QUEUED_MS = 2000;
const BACKOFF_FIRST_MS = 500;
const BACKOFF_MAX_MS = 5000;

export class Studio {
  #options: StudioOptions | null = null;
  #uplink: Uplink | null = null;
  #groups = new Groups(Date.now());
  #video: VideoLine | null = null;
  #audio: AudioLine | null = null;
  #rate = new Rate(1);
  #state: State = 'idle';
  #url = '';
  #home = '';
  #timer: ReturnType<typeof setInterval> | undefined;
  #looks = 0;
  #sent = 0;
  #sentAt = 0;
  #reconnects = 0;
  #wasLive = false;

  constructor(readonly tell: (message: FromStudio) => void) {}

  handle(message: ToStudio): void {
    if (message.kind === 'start') this.#start(message.options);
    else void this.#stop();
  }

  #start(options: StudioOptions): void {
    this.#options = options;
    this.#url = options.url;
    this.#home = options.url;
    this.#rate = new Rate(options.videoBitrate);
    const sink: Sink = {
      track: (kind, track) => this.#groups.configure(kind, track),
      frame: (kind, coded) => {
        const object = this.#state === 'live' ? this.#groups.frame(kind, coded) : null;
        if (object) this.#uplink?.send(object);
      },
      failed: (message) => this.#fail({ code: 'codec_unsupported', message }),
    };
    if (options.video) {
      this.#video = new VideoLine(sink, options.videoBitrate, options.keyframeMs);
      this.#video.run(options.video).then(
        () => this.#ended('The camera or screen has ended.'),
        () => this.#ended('The camera or screen has failed.'),
      );
    }
    if (options.audio) {
      this.#audio = new AudioLine(sink, options.audioBitrate);
      const over = (): void => {
        // Pictures go on without sound; sound alone is the broadcast.
        if (!options.video) this.#ended('The microphone has ended.');
      };
      this.#audio.run(options.audio).then(over, over);
    }
    this.#timer = setInterval(() => this.#look(), LOOK_MS);
    this.#set('connecting');
    void this.#connect();
  }

  /** Dials until it works, the window is over, or the node says that trying is no use. */
  async #connect(): Promise<void> {
    const options = this.#options;
    if (!options) return;
    const begun = performance.now();
    for (let attempt = 0; ; attempt += 1) {
      const trouble = await this.#attempt(options);
      if (!trouble || this.#isOver()) return;
      const lasting = isLasting(trouble, this.#wasLive);
      const left = options.reconnectMs - (performance.now() - begun);
      if (lasting || (!this.#wasLive && attempt >= 2) || left <= 0) return this.#fail(trouble);
      // A node that sent us elsewhere may have been wrong.
      if (attempt > 0) this.#url = this.#home;
      const wait = Math.min(left, BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** attempt) * (0.75 + Math.random() / 2);
      this.#set(this.#wasLive ? 'reconnecting' : 'connecting', trouble, wait);
      await new Promise((resolve) => setTimeout(resolve, wait));
      if (this.#isOver()) return;
    }
  }

  /** Null when the session is up. */
  async #attempt(options: StudioOptions): Promise<Trouble | null> {
    const tracks: Kind[] = [];
    if (options.audio) tracks.push('audio');
    if (options.video) tracks.push('video');
    let uplink: Uplink;
    try {
      const certificate = options.certificateSha256 === null ? null : bytesOfHex(options.certificateSha256);
      uplink = new Uplink({ url: this.#url, certificate, namespace: options.namespace, tracks });
      await uplink.ready();
    } catch (error) {
      return troubleOf(error instanceof Error ? error.message : String(error));
    }
    if (this.#isOver()) {
      uplink.close(0, '');
      return null;
    }
    uplink.onGoaway = (uri) => this.#move(uri);
    this.#uplink = uplink;
    this.#groups.restart();
    this.#video?.requestKeyframe();
    if (this.#wasLive) this.#reconnects += 1;
    this.#wasLive = true;
    this.#sent = 0;
    this.#sentAt = performance.now();
    this.#set('live');
    void uplink.probe();
    void uplink.ended.then(({ reason }) => this.#lost(uplink, reason));
    return null;
  }

  #lost(uplink: Uplink, reason: string): void {
    if (this.#uplink !== uplink || this.#isOver()) return;
    this.#uplink = null;
    const trouble = troubleOf(reason);
    if (isLasting(trouble, false)) return this.#fail(trouble);
    this.#set('reconnecting', trouble, 0);
    void this.#connect();
  }

  /** GOAWAY: the same input at another address, by a session that begins with a keyframe. */
  #move(uri: string): void {
    const uplink = this.#uplink;
    if (!uplink || this.#isOver()) return;
    const to = moved(this.#home, uri);
    if (to !== null) this.#url = to;
    this.#uplink = null;
    this.#set('reconnecting', { code: 'draining', message: 'The node sends its publishers elsewhere.' }, 0);
    // The place is free for the new session once the old one has left it.
    void uplink.finish().then(() => this.#connect());
  }

  #look(): void {
    const uplink = this.#uplink;
    const video = this.#video;
    if (!uplink || this.#state !== 'live') return;
    const { bitrate } = this.#rate.setting;
    const total = (video ? bitrate : 0) + (this.#options?.audioBitrate ?? 0);
    const queuedMs = (uplink.queuedBytes * 8000) / Math.max(1, total);
    const setting = this.#rate.look({ nowMs: performance.now(), queuedMs, encoderQueue: video?.queue ?? 0 });
    if (setting) video?.set(setting.bitrate, setting.every);
    if (queuedMs > SKIP_QUEUED_MS && video) {
      uplink.skip();
      video.requestKeyframe();
    }
    this.#looks += 1;
    if (this.#looks % PROBE_EVERY === 0) void uplink.probe();
    if (this.#looks % STATS_EVERY !== 0) return;
    const now = performance.now();
    const seconds = (now - this.#sentAt) / 1000;
    const sent = uplink.sentBytes - this.#sent;
    [this.#sent, this.#sentAt] = [uplink.sentBytes, now];
    this.tell({
      kind: 'stats',
      stats: {
        bitrate: seconds > 0 ? (sent * 8) / seconds : 0,
        target: total,
        fps: video?.fps ?? 0,
        width: video?.width ?? 0,
        height: video?.height ?? 0,
        videoCodec: video?.codec ?? null,
        audioCodec: this.#audio?.codec ?? null,
        rttMs: uplink.rttMs,
        queuedMs,
        framesDropped: video?.framesDropped ?? 0,
        groupsDropped: uplink.groupsDropped,
        reconnects: this.#reconnects,
      },
    });
  }

  #ended(message: string): void {
    if (!this.#isOver()) void this.#stop({ code: 'source_ended', message });
  }

  async #stop(trouble: Trouble | null = null): Promise<void> {
    if (this.#isOver()) return;
    const uplink = this.#uplink;
    this.#release();
    this.#set('ended', trouble);
    await uplink?.finish();
  }

  #fail(trouble: Trouble): void {
    if (this.#isOver()) return;
    const uplink = this.#uplink;
    this.#release();
    uplink?.close(0, '');
    this.#set('failed', trouble);
  }

  #release(): void {
    clearInterval(this.#timer);
    this.#uplink = null;
    this.#video?.close();
    this.#audio?.close();
  }

  #isOver(): boolean {
    return this.#state === 'ended' || this.#state === 'failed';
  }

  #set(state: State, trouble: Trouble | null = null, retryInMs: number | null = null): void {
    this.#state = state;
    this.tell({ kind: 'state', state, trouble, retryInMs });
  }
}

/** The publish URL at the address of a GOAWAY: host and port are the node's word, input and key stay ours. */
export function moved(home: string, uri: string): string | null {
  if (uri === '') return home;
  try {
    const url = new URL(home);
    const to = new URL(uri.replace(/^moqt?:/, 'https:'));
    if (to.protocol !== 'https:' || to.hostname === '') return null;
    url.hostname = to.hostname;
    url.port = to.port;
    return url.href;
  } catch {
    return null;
  }
}

const WORDS: Record<string, string> = {
  auth_failed: "Stream key refused. Copy the key again from the input's page, or rotate it.",
  too_many_attempts: 'Too many wrong keys came from this address. Wait a minute and try again.',
  input_busy: 'Somebody else is publishing to this input.',
  capacity: 'The node has no room for another publisher now.',
  draining: 'The node is going down.',
};

/** Of an input that takes neither MoQT nor WHIP, or not the only one this browser can send. */
const ELSEWHERE = 'This input takes another protocol. Make one for the browser: weir input create --ingest ';

/** What a session's last words mean. */
export function troubleOf(reason: string, transport: 'moqt' | 'whip' = 'moqt'): Trouble {
  const code = /^[a-z]+(_[a-z]+)*(?=:|$)/.exec(reason)?.[0] ?? '';
  const words = code === 'input_disabled' ? ELSEWHERE + (transport === 'whip' ? 'whip' : 'fmp4') : WORDS[code];
  if (words) return { code, message: words };
  if (/^(codec|fmp4|group|timing|catalog)_[a-z]+$/.test(code)) {
    return { code, message: `The node does not take this: ${reason.slice(code.length + 2)}.` };
  }
  return { code: 'unreachable', message: reason === '' ? 'The connection is gone.' : `No connection to the node: ${reason}` };
}

/** Whether trying again is no use. A place that was ours is free again once the node knows that we have gone. */
function isLasting({ code }: Trouble, wasLive: boolean): boolean {
  if (code === 'input_busy') return !wasLive;
  return !['unreachable', 'capacity', 'draining'].includes(code);
}

function bytesOfHex(hex: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(hex.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}
