// Writes CMAF: the header of one track, and one chunk per frame (ISO/IEC 14496-12 and the bindings of each codec). Owns box
// layouts only; when a group begins and what time a frame has is its caller's affair.

/** A picture track, with what its decoder needs. */
export interface VideoTrack {
  kind: 'video';
  timescale: number;
  width: number;
  height: number;
  /** RFC 6381, as the encoder says it. */
  codec: string;
  /** avcC of H.264; nothing for VP9, whose box follows from the codec string. */
  description: Uint8Array | null;
}

/** A sound track; Opus only. */
export interface AudioTrack {
  kind: 'audio';
  timescale: number;
  channels: number;
  sampleRate: number;
  preSkip: number;
}

export type Track = VideoTrack | AudioTrack;

/** One coded frame. */
export interface Frame {
  sequence: number;
  /** In the track's timescale. */
  decodeTime: number;
  duration: number;
  keyframe: boolean;
  data: Uint8Array;
}

/** The only track of its file. */
const TRACK_ID = 1;
const SYNC = 0x02000000;
const NON_SYNC = 0x01010000;

class Writer {
  #parts: Uint8Array[] = [];
  #length = 0;

  raw(bytes: Uint8Array | readonly number[]): this {
    const part = bytes instanceof Uint8Array ? bytes : Uint8Array.from(bytes);
    this.#parts.push(part);
    this.#length += part.length;
    return this;
  }

  text(text: string): this {
    return this.raw(new TextEncoder().encode(text));
  }

  u16(value: number): this {
    return this.raw([(value >> 8) & 0xff, value & 0xff]);
  }

  u32(...values: number[]): this {
    for (const value of values) this.raw([(value >>> 24) & 0xff, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff]);
    return this;
  }

  /** Decode times of a wall clock in microseconds stay below 2^53. */
  u64(value: number): this {
    return this.u32(Math.floor(value / 2 ** 32), value % 2 ** 32);
  }

  zeros(count: number): this {
    return this.raw(new Uint8Array(count));
  }

  done(): Uint8Array<ArrayBuffer> {
    const whole = new Uint8Array(this.#length);
    let at = 0;
    for (const part of this.#parts) {
      whole.set(part, at);
      at += part.length;
    }
    return whole;
  }

  get length(): number {
    return this.#length;
  }
}

function box(kind: string, ...bodies: (Writer | Uint8Array)[]): Uint8Array<ArrayBuffer> {
  const body = new Writer();
  for (const part of bodies) body.raw(part instanceof Writer ? part.done() : part);
  return new Writer().u32(body.length + 8).text(kind).raw(body.done()).done();
}

function fullBox(kind: string, version: number, flags: number, ...bodies: (Writer | Uint8Array)[]): Uint8Array<ArrayBuffer> {
  return box(kind, new Writer().u32(version * 2 ** 24 + flags), ...bodies);
}

const UNITY = new Writer().u32(0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000).done();

/** `ftyp` and `moov` of a track. */
export function header(track: Track): Uint8Array<ArrayBuffer> {
  const video = track.kind === 'video';
  const mvhd = fullBox('mvhd', 0, 0, new Writer().u32(0, 0, 1000, 0, 0x10000).u16(0x100).zeros(10).raw(UNITY).zeros(24).u32(TRACK_ID + 1));
  // Enabled, in movie, in preview.
  const size = video ? [track.width * 0x10000, track.height * 0x10000] : [0, 0];
  const tkhd = fullBox('tkhd', 0, 7, new Writer().u32(0, 0, TRACK_ID, 0, 0).zeros(8).u16(0).u16(video ? 0 : 1).u16(video ? 0 : 0x100).u16(0).raw(UNITY).u32(...size));
  // Language: undetermined.
  const mdhd = fullBox('mdhd', 0, 0, new Writer().u32(0, 0, track.timescale, 0).u16(0x55c4).u16(0));
  const hdlr = fullBox('hdlr', 0, 0, new Writer().u32(0).text(video ? 'vide' : 'soun').zeros(12).text('weir\0'));
  const media = video ? fullBox('vmhd', 0, 1, new Writer().zeros(8)) : fullBox('smhd', 0, 0, new Writer().zeros(4));
  // The media is in this very file.
  const dinf = box('dinf', fullBox('dref', 0, 0, new Writer().u32(1), fullBox('url ', 0, 1)));
  const stsd = fullBox('stsd', 0, 0, new Writer().u32(1), video ? videoEntry(track) : audioEntry(track));
  const empty = (kind: string): Uint8Array => fullBox(kind, 0, 0, new Writer().u32(0));
  const stsz = fullBox('stsz', 0, 0, new Writer().u32(0, 0));
  const stbl = box('stbl', stsd, empty('stts'), empty('stsc'), stsz, empty('stco'));
  const trak = box('trak', tkhd, box('mdia', mdhd, hdlr, box('minf', media, dinf, stbl)));
  const mvex = box('mvex', fullBox('trex', 0, 0, new Writer().u32(TRACK_ID, 1, 0, 0, 0)));
  const ftyp = box('ftyp', new Writer().text('cmf2').u32(0).text('cmf2iso6mp41'));
  return new Writer().raw(ftyp).raw(box('moov', mvhd, trak, mvex)).done();
}

function videoEntry(track: VideoTrack): Uint8Array {
  const fixed = new Writer().zeros(6).u16(1).zeros(16).u16(track.width).u16(track.height).u32(0x480000, 0x480000, 0).u16(1).zeros(32).u16(24).u16(0xffff);
  if (track.codec.startsWith('avc1')) {
    if (!track.description) throw new Error('H.264 without its configuration');
    return box('avc1', fixed, box('avcC', track.description));
  }
  if (track.codec.startsWith('vp09')) return box('vp09', fixed, vpcC(track.codec));
  throw new Error(`no header for ${track.codec}`);
}

/** VP in ISOBMFF 2.2; `vp09.PP.LL.DD` and what it leaves out has its default. */
function vpcC(codec: string): Uint8Array {
  const [profile = 0, level = 10, depth = 8, chroma = 1] = codec.split('.').slice(1).map(Number);
  return fullBox('vpcC', 1, 0, new Writer().raw([profile, level, (depth << 4) | (chroma << 1), 1, 1, 1]).u16(0));
}

function audioEntry(track: AudioTrack): Uint8Array {
  const fixed = new Writer().zeros(6).u16(1).zeros(8).u16(track.channels).u16(16).u32(0).u32(48000 * 0x10000);
  // Opus in ISOBMFF 4.3.2: version 0, no gain, mapping family 0.
  const dOps = new Writer().raw([0, track.channels]).u16(track.preSkip).u32(track.sampleRate).u16(0).raw([0]);
  return box('Opus', fixed, box('dOps', dOps));
}

/** `moof` and `mdat` of one frame. */
export function chunk(frame: Frame): Uint8Array<ArrayBuffer> {
  const mfhd = fullBox('mfhd', 0, 0, new Writer().u32(frame.sequence >>> 0));
  // default-base-is-moof
  const tfhd = fullBox('tfhd', 0, 0x020000, new Writer().u32(TRACK_ID));
  const tfdt = fullBox('tfdt', 1, 0, new Writer().u64(frame.decodeTime));
  // data-offset, and of the one sample duration, size and flags.
  const trun = (offset: number): Uint8Array =>
    fullBox('trun', 0, 0x000701, new Writer().u32(1, offset, frame.duration, frame.data.length, frame.keyframe ? SYNC : NON_SYNC));
  const moof = (offset: number): Uint8Array => box('moof', mfhd, box('traf', tfhd, tfdt, trun(offset)));
  const length = moof(0).length;
  return new Writer().raw(moof(length + 8)).u32(frame.data.length + 8).text('mdat').raw(frame.data).done();
}
