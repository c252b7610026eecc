// Frames of one or two tracks into MoQT groups: a keyframe of the picture opens one for both tracks, a second of sound does
// where there is no picture. Owns group and object numbers and the header in front of each group, so that whoever joins
// there, and the node after a change of codec, needs nothing else.

import { type Track, chunk, header } from './mp4.js';

export interface Coded {
  /** Microseconds on the clock that both tracks share. */
  timeUs: number;
  durationUs: number;
  keyframe: boolean;
  data: Uint8Array;
}

export interface GroupObject {
  track: 'video' | 'audio';
  group: number;
  object: number;
  payload: Uint8Array<ArrayBuffer>;
}

/** Groups of sound alone. */
const AUDIO_GROUP_US = 1_000_000;

interface Line {
  track: Track;
  group: number;
  next: number;
  sequence: number;
  begunUs: number;
  lastTime: number;
}

export class Groups {
  #group: number;
  #lines = new Map<'video' | 'audio', Line>();
  #hasVideo = false;

  /** `first`: ids grow over restarts, so it is a wall clock. */
  constructor(first: number) {
    this.#group = first;
  }

  /** A track is there, or its configuration changed: its next frame opens a group. */
  configure(kind: 'video' | 'audio', track: Track): void {
    if (kind === 'video') this.#hasVideo = true;
    const known = this.#lines.get(kind);
    this.#lines.set(kind, { track, group: -1, next: 0, sequence: known?.sequence ?? 1, begunUs: 0, lastTime: known?.lastTime ?? -1 });
  }

  /** The session is new: nothing of a group under way is there. */
  restart(): void {
    for (const line of this.#lines.values()) line.group = -1;
  }

  /** The object of a frame; null before its track can begin. */
  frame(kind: 'video' | 'audio', coded: Coded): GroupObject | null {
    const line = this.#lines.get(kind);
    if (!line) return null;
    if (kind === 'video') {
      if (coded.keyframe) this.#open(line, this.#group + 1, coded);
      else if (line.group < 0) return null;
    } else if (line.group < 0 || (this.#hasVideo && line.group !== this.#group)) {
      this.#open(line, this.#hasVideo ? this.#group : this.#group + 1, coded);
    } else if (!this.#hasVideo && coded.timeUs - line.begunUs >= AUDIO_GROUP_US) {
      this.#open(line, this.#group + 1, coded);
    }
    const { timescale } = line.track;
    // A frame's time may round to its predecessor's; decode times must grow.
    const decodeTime = Math.max(Math.round((coded.timeUs * timescale) / 1e6), line.lastTime + 1);
    line.lastTime = decodeTime;
    const duration = Math.max(1, Math.round((coded.durationUs * timescale) / 1e6));
    const body = chunk({ sequence: line.sequence, decodeTime, duration, keyframe: kind === 'audio' || coded.keyframe, data: coded.data });
    line.sequence += 1;
    const object = line.next;
    line.next += 1;
    return { track: kind, group: line.group, object, payload: object === 0 ? join(header(line.track), body) : body };
  }

  #open(line: Line, group: number, coded: Coded): void {
    line.group = group;
    line.next = 0;
    line.begunUs = coded.timeUs;
    this.#group = Math.max(this.#group, group);
  }
}

function join(first: Uint8Array, second: Uint8Array): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(first.length + second.length);
  whole.set(first);
  whole.set(second, first.length);
  return whole;
}
