// The few boxes of a CMAF chunk that a player reads itself: capture time, media time, timescale. Owns box walking over a
// stranger's bytes; decoding is the browser's.

export interface ChunkTimes {
  /** Wall clock of the capture at the ingest, in ms since the Unix epoch; null without a `prft`. */
  capturedMs: number | null;
  /** Presentation time of the first sample, in units of the track. */
  media: number | null;
  /** Decode time of the first sample, in units of the track. */
  decode: number | null;
}

/** Seconds from the NTP epoch of 1900 to the Unix epoch. */
const NTP_UNIX_SECONDS = 2_208_988_800;
/** NTP's seconds wrap in 2036; values below this belong to the next era. */
const NTP_ERA_PIVOT = 2 ** 31;

export function readChunk(bytes: Uint8Array): ChunkTimes {
  const times: ChunkTimes = { capturedMs: null, media: null, decode: null };
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (const box of boxes(view, 0, view.byteLength)) {
    if (box.type === 'prft' && box.end - box.start >= 24) {
      const wide = view.getUint8(box.start) === 1;
      const seconds = view.getUint32(box.start + 8);
      const era = seconds < NTP_ERA_PIVOT ? 2 ** 32 : 0;
      const fraction = view.getUint32(box.start + 12) / 2 ** 32;
      times.capturedMs = (seconds + era - NTP_UNIX_SECONDS + fraction) * 1000;
      times.media = wide ? uint64(view, box.start + 16) : view.getUint32(box.start + 16);
    } else if (box.type === 'moof') {
      const tfdt = find(view, box, ['traf', 'tfdt']);
      if (tfdt && tfdt.end - tfdt.start >= 8) {
        const wide = view.getUint8(tfdt.start) === 1 && tfdt.end - tfdt.start >= 12;
        times.decode = wide ? uint64(view, tfdt.start + 4) : view.getUint32(tfdt.start + 4);
      }
      break;
    }
  }
  return times;
}

/** Units per second of the first track of an init segment. */
export function readTimescale(init: Uint8Array): number | null {
  const view = new DataView(init.buffer, init.byteOffset, init.byteLength);
  for (const box of boxes(view, 0, view.byteLength)) {
    if (box.type !== 'moov') continue;
    const mdhd = find(view, box, ['trak', 'mdia', 'mdhd']);
    if (!mdhd || mdhd.end - mdhd.start < 24) return null;
    const wide = view.getUint8(mdhd.start) === 1;
    return view.getUint32(mdhd.start + (wide ? 20 : 12)) || null;
  }
  return null;
}

interface Box {
  type: string;
  /** Where its content starts and ends. */
  start: number;
  end: number;
}

function* boxes(view: DataView, from: number, to: number): Generator<Box> {
  let at = from;
  while (at + 8 <= to) {
    let size = view.getUint32(at);
    let head = 8;
    if (size === 1 && at + 16 <= to) {
      size = uint64(view, at + 8);
      head = 16;
    } else if (size === 0) {
      size = to - at;
    }
    if (size < head || at + size > to) return;
    const type = String.fromCharCode(...[4, 5, 6, 7].map((offset) => view.getUint8(at + offset)));
    yield { type, start: at + head, end: at + size };
    at += size;
  }
}

/** The first box at a path below another. */
function find(view: DataView, within: Box, path: string[]): Box | null {
  const [type, ...rest] = path;
  for (const box of boxes(view, within.start, within.end)) {
    if (box.type !== type) continue;
    return rest.length === 0 ? box : find(view, box, rest);
  }
  return null;
}

function uint64(view: DataView, at: number): number {
  return view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4);
}
