// One track that is being watched, whatever connection it comes over: its order, its bytes and its rate. Owns the choice of
// tracks that this browser plays.

import { type Catalog, type CatalogTrack, type Kind, mimeOf } from './catalog.js';
import { Merge } from './merge.js';
import type { TrackStats } from './protocol.js';
import { mediaSourceClass } from './sink.js';

/** Subscriber priorities; lower is served first. */
export const PRIORITY = { catalog: 0, audio: 1, video: 2 } as const;

const RATE_SPAN_MS = 5000;

export class Lane {
  readonly merge = new Merge();
  #bytes = 0;
  #recent: { at: number; bytes: number }[] = [];

  constructor(public track: CatalogTrack) {}

  count(bytes: number, now: number): void {
    this.#bytes += bytes;
    this.#recent.push({ at: now, bytes });
  }

  stats(now: number): TrackStats {
    this.#recent = this.#recent.filter(({ at }) => now - at < RATE_SPAN_MS);
    const bytes = this.#recent.reduce((sum, entry) => sum + entry.bytes, 0);
    const span = Math.max(1000, now - (this.#recent[0]?.at ?? now));
    return {
      name: this.track.name,
      codec: this.track.codec,
      bytes: this.#bytes,
      bitrate: Math.round((bytes * 8000) / span),
      ...this.merge.counters,
    };
  }
}

/** One track of each kind: the tallest picture and the first sound that this browser decodes. */
export function choose(catalog: Catalog): CatalogTrack[] {
  const Source = mediaSourceClass();
  const playable = catalog.tracks.filter((track) => Source?.isTypeSupported(mimeOf(track)));
  const video = playable
    .filter(({ kind }) => kind === 'video')
    .sort((left, right) => (right.height ?? 0) - (left.height ?? 0))[0];
  const audio = playable.find(({ kind }) => kind === 'audio');
  return [video, audio].filter((track) => track !== undefined);
}

/**
 * Why this browser cannot show a broadcast, or null if it can: none of its pictures can be decoded (sound alone would look
 * like a stall), or, where there are none, none of its sounds.
 */
export function undecodable(catalog: Catalog, chosen: CatalogTrack[]): string | null {
  const kind: Kind = catalog.tracks.some((track) => track.kind === 'video') ? 'video' : 'audio';
  if (chosen.some((track) => track.kind === kind)) return null;
  const codecs = [...new Set(catalog.tracks.filter((track) => track.kind === kind).map(({ codec }) => codec))];
  if (codecs.length === 0) return 'This broadcast has neither pictures nor sound.';
  return `This browser cannot decode the ${kind} of this broadcast (${codecs.join(', ')}).`;
}

export function sameKinds(left: Kind[], right: Kind[]): boolean {
  return left.length === right.length && left.every((kind) => right.includes(kind));
}

export function sameBytes(left: Uint8Array, right: Uint8Array): boolean {
  return left.length === right.length && left.every((byte, index) => byte === right[index]);
}
