// Feeds MediaSource: one source buffer per kind, appends in order, trims what was played. Owns the media source and its
// buffers, and the offset that keeps the timeline rising when a relay starts anew; knows nothing of groups and networks.

import { type CatalogTrack, type Kind, mimeOf } from './catalog.js';
import { readTimescale } from './chunk.js';

export interface SinkEvents {
  /** The buffers cannot go on; the sink must be replaced. */
  onBroken(reason: string): void;
}

/** Played media kept: enough to show the last picture again, and to bridge a seek of the element. */
const KEEP_BEHIND_S = 10;
/** A paused player keeps this much, newest last. */
const KEEP_S = 30;
/** Bytes waiting for a busy buffer. Past it the sink is broken: the decoder does not keep up at all. */
const QUEUE_BYTES_MAX = 32 * 1024 * 1024;
/** Chunks joined into one append. */
const BATCH_BYTES = 512 * 1024;
/** Going back further than this is another timeline, not reordering. */
const BACKWARDS_S = 1;

interface Lane {
  kind: Kind;
  mime: string;
  timescale: number;
  buffer: SourceBuffer | null;
  queue: { bytes: Uint8Array; mime: string | null; offset: number }[];
  queued: number;
  /** Init to be appended in front of the next group. */
  init: CatalogTrack | null;
  /** End of what was appended, in seconds on the element's timeline. */
  edge: number | null;
}

/** MediaSource, or the managed one where phones have only that. */
export function mediaSourceClass(): typeof MediaSource | null {
  const scope = globalThis as { ManagedMediaSource?: typeof MediaSource; MediaSource?: typeof MediaSource };
  return scope.MediaSource ?? scope.ManagedMediaSource ?? null;
}

export class Sink {
  readonly source: MediaSource;
  #lanes = new Map<Kind, Lane>();
  #offset = 0;
  #position = 0;
  #broken = false;

  constructor(
    tracks: CatalogTrack[],
    readonly events: SinkEvents,
  ) {
    const Source = mediaSourceClass();
    if (!Source) throw new Error('this browser has no MediaSource');
    this.source = new Source();
    for (const track of tracks) {
      this.#lanes.set(track.kind, {
        kind: track.kind,
        mime: mimeOf(track),
        timescale: readTimescale(track.init) ?? 1,
        buffer: null,
        queue: [],
        queued: 0,
        init: track,
        edge: null,
      });
    }
    this.source.addEventListener('sourceopen', () => this.#attempt(() => this.#open()), { once: true });
  }

  /** Kinds this sink was made for; it cannot change them. */
  get kinds(): Kind[] {
    return [...this.#lanes.keys()];
  }

  /** Another init: used from the next group on. */
  change(track: CatalogTrack): void {
    const lane = this.#lanes.get(track.kind);
    if (lane) lane.init = track;
  }

  /**
   * Takes one chunk, whose decode time is in units of its track. Returns the offset of the element's timeline, in
   * seconds, and the track's timescale.
   */
  append(kind: Kind, bytes: Uint8Array, opens: boolean, decode: number | null): { offset: number; timescale: number } {
    const lane = this.#lanes.get(kind);
    if (!lane || this.#broken) return { offset: this.#offset, timescale: lane?.timescale ?? 1 };
    if (lane.init && opens) {
      const { init } = lane;
      lane.timescale = readTimescale(init.init) ?? lane.timescale;
      lane.queue.push({ bytes: init.init, mime: mimeOf(init), offset: this.#offset });
      lane.init = null;
    }
    if (decode !== null) {
      const at = decode / lane.timescale;
      if (lane.edge !== null && at + this.#offset < lane.edge - BACKWARDS_S) {
        const edges = [...this.#lanes.values()].map(({ edge }) => edge ?? 0);
        this.#offset = Math.max(...edges) + 0.05 - at;
      }
      lane.edge = at + this.#offset;
    }
    lane.queue.push({ bytes, mime: null, offset: this.#offset });
    lane.queued += bytes.length;
    if (lane.queued > QUEUE_BYTES_MAX) this.#break(`${kind} piles up in front of the decoder`);
    else this.#pump(lane);
    return { offset: this.#offset, timescale: lane.timescale };
  }

  /** Where the element is; `paused` players are trimmed from their start. */
  position(seconds: number): void {
    this.#position = seconds;
  }

  /** Drops what was played. */
  trim(): void {
    for (const lane of this.#lanes.values()) this.#attempt(() => this.#trim(lane, KEEP_BEHIND_S));
  }

  close(): void {
    this.#broken = true;
    for (const lane of this.#lanes.values()) lane.queue = [];
  }

  #open(): void {
    for (const lane of this.#lanes.values()) {
      const buffer = this.source.addSourceBuffer(lane.mime);
      lane.buffer = buffer;
      buffer.addEventListener('updateend', () => this.#pump(lane));
      buffer.addEventListener('error', () => this.#break(`the browser refused ${lane.kind} data (${lane.mime})`));
    }
    this.source.duration = Infinity;
    for (const lane of this.#lanes.values()) this.#pump(lane);
  }

  #pump(lane: Lane): void {
    const { buffer, queue } = lane;
    const [first] = queue;
    if (!buffer || buffer.updating || !first || this.#broken || this.source.readyState === 'closed') return;
    this.#attempt(() => {
      if (first.mime !== null && first.mime !== lane.mime) {
        buffer.changeType(first.mime);
        lane.mime = first.mime;
      }
      if (buffer.timestampOffset !== first.offset) buffer.timestampOffset = first.offset;
      let count = 0;
      let length = 0;
      for (const { bytes, mime, offset } of queue) {
        if (count > 0 && (mime !== null || offset !== first.offset || length + bytes.length > BATCH_BYTES)) break;
        count += 1;
        length += bytes.length;
      }
      const batch = queue.slice(0, count);
      const data = new Uint8Array(length);
      let at = 0;
      for (const { bytes } of batch) {
        data.set(bytes, at);
        at += bytes.length;
      }
      try {
        buffer.appendBuffer(data);
      } catch (error) {
        if (!(error instanceof DOMException) || error.name !== 'QuotaExceededError') throw error;
        // Full: make room and come back with `updateend`.
        if (!this.#trim(lane, 1)) throw error;
        return;
      }
      queue.splice(0, count);
      for (const { bytes, mime } of batch) if (mime === null) lane.queued -= bytes.length;
    });
  }

  /** Removes what lies more than `keep` seconds behind; tells whether there was something. */
  #trim(lane: Lane, keep: number): boolean {
    const { buffer } = lane;
    if (!buffer || buffer.updating || buffer.buffered.length === 0 || this.source.readyState !== 'open') return false;
    const start = buffer.buffered.start(0);
    const end = buffer.buffered.end(buffer.buffered.length - 1);
    const until = Math.max(this.#position - keep, end - KEEP_S);
    // Whole seconds at a time; the browser keeps the group that the cut falls into.
    if (until - start < Math.min(keep, 2)) return false;
    buffer.remove(start, until);
    return true;
  }

  #attempt(run: () => void): void {
    if (this.#broken) return;
    try {
      run();
    } catch (error) {
      this.#break(error instanceof Error ? error.message : String(error));
    }
  }

  #break(reason: string): void {
    if (this.#broken) return;
    this.#broken = true;
    this.events.onBroken(reason);
  }
}
