// Picture and sound of a MediaStream into coded frames by WebCodecs. Owns the choice of codec, keyframes, and one clock for
// both; what becomes of the frames is its caller's affair.

import type { Coded } from './groups.js';
import type { Track } from './mp4.js';

/** By preference: what plays everywhere, then what Weir carries besides. */
function candidates(width: number, height: number): string[] {
  const level = width * height > 1280 * 720 ? '28' : '1f';
  const vp9 = width * height > 1280 * 720 ? '40' : '31';
  return [`avc1.4d00${level}`, `avc1.42e0${level}`, `vp09.00.${vp9}.08`];
}

export async function chooseVideo(base: Omit<VideoEncoderConfig, 'codec'>): Promise<VideoEncoderConfig | null> {
  for (const codec of candidates(base.width, base.height)) {
    const config: VideoEncoderConfig = { ...base, codec };
    if (codec.startsWith('avc1')) config.avc = { format: 'avc' };
    const { supported } = await VideoEncoder.isConfigSupported(config).catch(() => ({ supported: false }));
    if (supported) return config;
  }
  return null;
}

/**
 * One clock for tracks whose stamps have different zeros: each is anchored to the time its frames arrive, by the frame that
 * was least late among the first ones.
 */
export class Clock {
  #offset = Infinity;
  #seen = 0;

  toUs(timestamp: number, nowUs: number): number {
    if (this.#seen < 16) {
      this.#seen += 1;
      this.#offset = Math.min(this.#offset, nowUs - timestamp);
    }
    return timestamp + this.#offset;
  }
}

export interface Sink {
  track(kind: 'video' | 'audio', track: Track, codec: string): void;
  frame(kind: 'video' | 'audio', coded: Coded): void;
  failed(message: string): void;
}

const VIDEO_TIMESCALE = 90_000;
const FRAME_US_DEFAULT = 33_333;

export class VideoLine {
  fps = 0;
  width = 0;
  height = 0;
  codec: string | null = null;
  framesDropped = 0;
  #encoder: VideoEncoder;
  #config: VideoEncoderConfig | null = null;
  #clock = new Clock();
  #times = new Map<number, number>();
  #every = 1;
  #count = 0;
  #keyframeAt = -Infinity;
  #wantKeyframe = true;
  #lastUs: number | null = null;
  #encoded: number[] = [];

  constructor(
    readonly sink: Sink,
    public bitrate: number,
    readonly keyframeMs: number,
  ) {
    this.#encoder = new VideoEncoder({
      output: (chunk, metadata) => this.#output(chunk, metadata),
      error: (error) => sink.failed(`The video encoder failed: ${error.message}`),
    });
  }

  get queue(): number {
    return this.#encoder.encodeQueueSize;
  }

  requestKeyframe(): void {
    this.#wantKeyframe = true;
  }

  /** Takes effect with a keyframe. */
  set(bitrate: number, every: number): void {
    this.#every = every;
    if (bitrate === this.bitrate) return;
    this.bitrate = bitrate;
    if (!this.#config) return;
    this.#config = { ...this.#config, bitrate };
    this.#encoder.configure(this.#config);
  }

  /** Encodes and closes frames until the camera ends. */
  async run(frames: ReadableStream<VideoFrame>): Promise<void> {
    const reader = frames.getReader();
    for (;;) {
      const { value: frame, done } = await reader.read();
      if (done || this.#encoder.state === 'closed') {
        frame?.close();
        await reader.cancel().catch(() => {});
        return;
      }
      try {
        await this.#encode(frame);
      } finally {
        frame.close();
      }
    }
  }

  close(): void {
    if (this.#encoder.state !== 'closed') this.#encoder.close();
  }

  async #encode(frame: VideoFrame): Promise<void> {
    // Coded sizes are even.
    const [width, height] = [frame.displayWidth & ~1, frame.displayHeight & ~1];
    if (width !== this.width || height !== this.height) {
      const config = await chooseVideo({
        width,
        height,
        bitrate: this.bitrate,
        framerate: 30,
        latencyMode: 'realtime',
        bitrateMode: 'variable',
      });
      if (!config) return this.sink.failed('This browser has no video encoder that Weir takes: H.264 or VP9.');
      if (this.#encoder.state === 'closed') return;
      [this.width, this.height, this.#config] = [width, height, config];
      this.#encoder.configure(config);
      this.#wantKeyframe = true;
    }
    this.#count += 1;
    if (this.#count % this.#every !== 0 || this.queue > 4) {
      this.framesDropped += 1;
      return;
    }
    const nowMs = performance.now();
    // A frame early is in time: the next one would be late.
    const due = nowMs - this.#keyframeAt >= this.keyframeMs - 20;
    const keyFrame = this.#wantKeyframe || due;
    if (keyFrame) [this.#keyframeAt, this.#wantKeyframe] = [nowMs, false];
    this.#times.set(frame.timestamp, this.#clock.toUs(frame.timestamp, nowMs * 1000));
    this.#encoder.encode(frame, { keyFrame });
  }

  #output(chunk: EncodedVideoChunk, metadata: EncodedVideoChunkMetadata | undefined): void {
    const config = metadata?.decoderConfig;
    if (config) {
      const { width, height } = this;
      this.codec = config.codec;
      const description = config.description ? bytesOf(config.description) : null;
      this.sink.track('video', { kind: 'video', timescale: VIDEO_TIMESCALE, width, height, codec: config.codec, description }, config.codec);
    }
    const timeUs = this.#times.get(chunk.timestamp) ?? chunk.timestamp;
    this.#times.delete(chunk.timestamp);
    const durationUs = this.#lastUs === null ? FRAME_US_DEFAULT : Math.max(1000, timeUs - this.#lastUs);
    this.#lastUs = timeUs;
    this.#encoded.push(performance.now());
    this.#encoded = this.#encoded.filter((at) => at > performance.now() - 2000);
    this.fps = this.#encoded.length / 2;
    this.sink.frame('video', { timeUs, durationUs, keyframe: chunk.type === 'key', data: dataOf(chunk) });
  }
}

const PRE_SKIP_DEFAULT = 312;

export class AudioLine {
  codec: string | null = null;
  #encoder: AudioEncoder;
  #clock = new Clock();
  /** Output stamps are the input's, continued by what was encoded. */
  #offset: number | null = null;
  #channels = 0;
  #sampleRate = 0;

  constructor(
    readonly sink: Sink,
    readonly bitrate: number,
  ) {
    this.#encoder = new AudioEncoder({
      output: (chunk, metadata) => this.#output(chunk, metadata),
      error: (error) => sink.failed(`The sound encoder failed: ${error.message}`),
    });
  }

  async run(sound: ReadableStream<AudioData>): Promise<void> {
    const reader = sound.getReader();
    for (;;) {
      const { value: data, done } = await reader.read();
      if (done || this.#encoder.state === 'closed') {
        data?.close();
        await reader.cancel().catch(() => {});
        return;
      }
      try {
        this.#encode(data);
      } finally {
        data.close();
      }
    }
  }

  close(): void {
    if (this.#encoder.state !== 'closed') this.#encoder.close();
  }

  #encode(data: AudioData): void {
    const channels = Math.min(2, data.numberOfChannels);
    if (channels !== this.#channels || data.sampleRate !== this.#sampleRate) {
      [this.#channels, this.#sampleRate] = [channels, data.sampleRate];
      this.#encoder.configure({ codec: 'opus', sampleRate: data.sampleRate, numberOfChannels: channels, bitrate: this.bitrate });
      this.#clock = new Clock();
    }
    this.#offset = this.#clock.toUs(data.timestamp, performance.now() * 1000) - data.timestamp;
    this.#encoder.encode(data);
  }

  #output(chunk: EncodedAudioChunk, metadata: EncodedAudioChunkMetadata | undefined): void {
    const config = metadata?.decoderConfig;
    if (config) {
      this.codec = 'opus';
      // OpusHead (RFC 7845 section 5.1): pre-skip is little-endian behind magic, version and channels.
      const head = config.description ? bytesOf(config.description) : null;
      const preSkip = head && head.length >= 19 ? (head[10] ?? 0) + 256 * (head[11] ?? 0) : PRE_SKIP_DEFAULT;
      const { numberOfChannels: channels } = config;
      this.sink.track('audio', { kind: 'audio', timescale: 48_000, channels, sampleRate: this.#sampleRate, preSkip }, 'opus');
    }
    const timeUs = chunk.timestamp + (this.#offset ?? 0);
    this.sink.frame('audio', { timeUs, durationUs: chunk.duration ?? 20_000, keyframe: true, data: dataOf(chunk) });
  }
}

function dataOf(chunk: EncodedVideoChunk | EncodedAudioChunk): Uint8Array {
  const data = new Uint8Array(chunk.byteLength);
  chunk.copyTo(data);
  return data;
}

function bytesOf(source: AllowSharedBufferSource): Uint8Array {
  return ArrayBuffer.isView(source)
    ? new Uint8Array(source.buffer.slice(source.byteOffset, source.byteOffset + source.byteLength) as ArrayBuffer)
    : new Uint8Array(source.slice(0) as ArrayBuffer);
}
