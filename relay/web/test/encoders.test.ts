// A camera in front of encoders that only count: what is asked of them on a narrow path, how often a keyframe is, and that no
// frame stays open.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { type Sink, VideoLine, chooseVideo } from '../src/publish/encoders.js';
import { Rate } from '../src/publish/rate.js';

const SINK: Sink = { track() {}, frame() {}, failed: (message) => assert.fail(message) };
const FRAME_MS = 40;

/** What a browser's encoder has, of which only the requests are kept. */
class CountingEncoder {
  static last: CountingEncoder;
  static codecs: string[] = ['avc1'];
  state = 'unconfigured';
  encodeQueueSize = 0;
  asked: VideoEncoderConfig[] = [];
  encoded: { atMs: number; keyFrame: boolean }[] = [];

  constructor() {
    CountingEncoder.last = this;
  }
  static isConfigSupported(config: VideoEncoderConfig): Promise<{ supported: boolean }> {
    return Promise.resolve({ supported: CountingEncoder.codecs.some((codec) => config.codec.startsWith(codec)) });
  }
  configure(config: VideoEncoderConfig): void {
    this.state = 'configured';
    this.asked.push(config);
  }
  encode(_: VideoFrame, { keyFrame }: { keyFrame: boolean }): void {
    this.encoded.push({ atMs: nowMs, keyFrame });
  }
  close(): void {
    this.state = 'closed';
  }
}

let nowMs = 0;
const clock = performance.now.bind(performance);

before(() => {
  Object.assign(globalThis, { VideoEncoder: CountingEncoder });
  performance.now = () => nowMs;
});

after(() => {
  performance.now = clock;
});

/** A camera that films a frame when told to, and knows how many of its frames are open. */
class Camera {
  open = 0;
  filmed = 0;
  #controller!: ReadableStreamDefaultController<VideoFrame>;
  readonly frames = new ReadableStream<VideoFrame>({ start: (controller) => (this.#controller = controller) });

  async film(size: [number, number] = [1281, 721]): Promise<void> {
    this.open += 1;
    this.filmed += 1;
    const [displayWidth, displayHeight] = size;
    const close = (): void => void (this.open -= 1);
    this.#controller.enqueue({ timestamp: nowMs * 1000, displayWidth, displayHeight, close } as unknown as VideoFrame);
    await new Promise(setImmediate);
    nowMs += FRAME_MS;
  }

  end(): void {
    this.#controller.close();
  }
}

test('on a narrow path the encoder is asked for less, then for fewer pictures, and a keyframe a second all the while', async () => {
  const [camera, rate] = [new Camera(), new Rate(3_000_000)];
  const line = new VideoLine(SINK, 3_000_000, 1000);
  const over = line.run(camera.frames);
  const encoder = CountingEncoder.last;
  const film = async (seconds: number, queuedMs: number): Promise<number> => {
    const [until, before] = [nowMs + seconds * 1000, encoder.encoded.length];
    for (let looked = nowMs; nowMs < until; ) {
      await camera.film();
      if (nowMs - looked < 250) continue;
      looked = nowMs;
      const setting = rate.look({ nowMs, queuedMs, encoderQueue: line.queue });
      if (setting) line.set(setting.bitrate, setting.every);
    }
    return (encoder.encoded.length - before) / seconds;
  };
  const bitrates = (): (number | undefined)[] => encoder.asked.splice(0).map(({ bitrate }) => bitrate);

  assert.equal(await film(5, 50), 25);
  assert.deepEqual([line.width, line.height], [1280, 720], 'coded sizes are even');
  assert.deepEqual(bitrates(), [3_000_000]);
  // The bitrate is at its least before the first picture is left out.
  assert.equal(await film(6.4, 800), 25);
  assert.deepEqual(bitrates(), [2_100_000, 1_470_000, 1_029_000, 720_300, 504_210, 500_000]);
  await film(4, 800);
  assert.deepEqual(bitrates(), [], 'the bitrate has no more to give');
  assert.ok(Math.abs((await film(4, 800)) - 6.25) < 0.5, 'every fourth picture');
  await film(60, 10);
  assert.equal(bitrates().at(-1), 3_000_000);
  assert.equal(await film(2, 10), 25);

  const keyframes = encoder.encoded.filter(({ keyFrame }) => keyFrame).map(({ atMs }) => atMs);
  const apart = keyframes.slice(1).map((at, index) => at - (keyframes[index] ?? 0));
  assert.ok(apart.every((ms) => ms > 960 && ms < 1000 + 4 * FRAME_MS), String(apart));
  assert.equal(camera.filmed, encoder.encoded.length + line.framesDropped, 'each frame is encoded or counted');

  camera.end();
  await over;
  line.close();
  assert.equal(camera.open, 0, 'no frame stays open');
});

test('frames that an encoder has no time for are dropped, and one after the end is closed', async () => {
  const camera = new Camera();
  const line = new VideoLine(SINK, 1_000_000, 1000);
  const over = line.run(camera.frames);
  await camera.film();
  const encoder = CountingEncoder.last;
  encoder.encodeQueueSize = 5;
  await camera.film();
  assert.deepEqual([encoder.encoded.length, line.framesDropped], [1, 1]);
  encoder.encodeQueueSize = 0;
  line.requestKeyframe();
  await camera.film();
  assert.deepEqual(encoder.encoded.map(({ keyFrame }) => keyFrame), [true, true], 'who asks gets a keyframe');
  await camera.film([640, 360]);
  assert.deepEqual([encoder.asked.at(-1)?.width, encoder.encoded.at(-1)?.keyFrame], [640, true], 'so does a new size');
  line.close();
  await camera.film();
  await over;
  assert.equal(camera.open, 0);
});

test('H.264 comes first, VP9 where there is none, and nothing where there is neither', async () => {
  const base = { width: 1280, height: 720, bitrate: 1_000_000 };
  assert.deepEqual((await chooseVideo(base))?.avc, { format: 'avc' });
  CountingEncoder.codecs = ['vp09'];
  assert.match((await chooseVideo(base))?.codec ?? '', /^vp09\./);
  CountingEncoder.codecs = [];
  assert.equal(await chooseVideo(base), null);
});
