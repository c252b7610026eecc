// A real encoder on a synthetic camera: frames with the burnt-in clock go to ffmpeg in real time, a tone beside them,
// and out over RTMP, SRT or WHIP. Owns the pace and the ffmpeg process; what arrives is the other side's affair.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';

import { draw, FRAME_BYTES, HEIGHT, WIDTH } from './stamp.mjs';

const FRAME_RATE = 30;

/** The ffmpeg of the distribution, and a current one; a test that wants either fails without it. */
export const FFMPEGS = {
  'ffmpeg 5': process.env.WEIR_FFMPEG5 ?? 'ffmpeg',
  'ffmpeg 9': process.env.WEIR_FFMPEG9,
};

export class Encoder {
  #child;
  #timer;
  #stderr = '';
  #exited;

  /**
   * @param {string} url  where to publish
   * @param {{ ffmpeg?: string, groupFrames?: number, bFrames?: boolean, also?: string, size?: string, codecs?: string[],
   *   keep?: string, whip?: { key: string, flags?: string } }} [options]  `also`: a second place that gets the same, and
   *   outlives the first; `size`: what the picture is scaled to, as WIDTHxHEIGHT; `codecs`: ffmpeg's options in place of
   *   H.264 and AAC; `keep`: a file that gets the same packets as MP4; `whip`: the url is a WHIP endpoint
   */
  static start(url, options = {}) {
    const { ffmpeg = FFMPEGS['ffmpeg 5'], groupFrames = 30, bFrames = false, also, size, codecs, keep, whip } = options;
    assert.ok(ffmpeg, 'WEIR_FFMPEG9 is not set: run through `make browser` or `make interop`');
    const encoder = new Encoder();
    // The node's certificate is its own; ffmpeg 9 would refuse it.
    const insecure = url.startsWith('rtmps:') ? ':tls_verify=0' : '';
    const video = bFrames
      ? ['-preset', 'veryfast', '-profile:v', 'high', '-bf', '2', '-x264-params', 'b-adapt=0:scenecut=0:rc-lookahead=10']
      : ['-preset', 'ultrafast', '-tune', 'zerolatency', '-profile:v', 'baseline'];
    encoder.#child = spawn(
      ffmpeg,
      ['-hide_banner', '-loglevel', 'warning', '-nostdin']
        .concat(['-f', 'rawvideo', '-pix_fmt', 'yuv420p', '-video_size', `${WIDTH}x${HEIGHT}`])
        // No probing: the frames that ffmpeg looks at first would make the picture late against the tone for good.
        .concat(['-framerate', String(FRAME_RATE), '-fflags', 'nobuffer', '-probesize', '32', '-analyzeduration', '0'])
        .concat(['-thread_queue_size', '64', '-i', 'pipe:0'])
        // The tone is not paced: ffmpeg takes of it what the picture's clock asks for.
        .concat(['-f', 'lavfi', '-i', 'sine=frequency=440:sample_rate=48000', '-map', '0:v', '-map', '1:a'])
        .concat(size ? ['-vf', `scale=${size.replace('x', ':')}:flags=neighbor`] : [])
        .concat(
          codecs ?? [
            ...['-c:v', 'libx264', ...video, '-g', String(groupFrames), '-keyint_min', String(groupFrames)],
            ...['-b:v', '900k', '-maxrate', '1200k', '-bufsize', '600k'],
            ...['-c:a', whip ? 'libopus' : 'aac', '-b:a', '96k', '-ac', '2'],
          ],
        )
        .concat(
          whip
            ? ['-f', 'whip', '-authorization', whip.key, ...(whip.flags ? ['-whip_flags', whip.flags] : []), url]
            : keep
            ? ['-flags', '+global_header', '-f', 'tee', `[f=flv:flush_packets=1${insecure}]${url}|[f=mp4:movflags=frag_keyframe+delay_moov]${keep}`]
            : also
            ? ['-flags', '+global_header', '-f', 'tee', [url, also].map((to) => `[f=flv:flush_packets=1:onfail=ignore]${to}`).join('|')]
            : ['-flush_packets', '1', '-f', url.startsWith('srt:') ? 'mpegts' : 'flv', url],
        ),
      { stdio: ['pipe', 'ignore', 'pipe'] },
    );
    encoder.#child.stderr.on('data', (bytes) => (encoder.#stderr += bytes));
    encoder.#child.stdin.on('error', () => {}); // The pipe breaks when ffmpeg ends first; its exit tells why.
    encoder.#exited = new Promise((resolve, reject) => {
      encoder.#child.on('error', (error) => reject(new Error(`${ffmpeg} does not start: ${error.message}`)));
      encoder.#child.on('close', (code, signal) => resolve({ code, signal, stderr: encoder.#stderr }));
    });
    encoder.#exited.catch(() => {});
    encoder.#film();
    return encoder;
  }

  get running() {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  get stderr() {
    return this.#stderr;
  }

  /** Resolves when ffmpeg ends by itself. */
  get exited() {
    return this.#exited;
  }

  /** Ends the broadcast as an operator does; `abort` pulls the plug. */
  async stop({ abort = false } = {}) {
    clearTimeout(this.#timer);
    this.#child.kill(abort ? 'SIGKILL' : 'SIGTERM');
    // ffmpeg sees the signal only when its read of the next frame returns.
    this.#child.stdin.end();
    return this.#exited;
  }

  // One frame on each tick of a schedule fixed at the start. A late tick catches up and no frame is dropped: ffmpeg
  // counts raw frames to know the time, so a missing one would shift the picture against the tone.
  #film() {
    const frame = Buffer.alloc(FRAME_BYTES);
    const started = performance.now();
    let counter = 0;
    const tick = () => {
      if (!this.running) return;
      while (started + (counter * 1000) / FRAME_RATE <= performance.now()) {
        counter += 1;
        draw(frame, Date.now(), counter);
        this.#child.stdin.write(Buffer.from(frame));
      }
      const next = started + (counter * 1000) / FRAME_RATE - performance.now();
      this.#timer = setTimeout(tick, Math.max(1, next));
    };
    tick();
  }
}
