// What the engine (in a worker where possible) and the viewer on the page tell each other. Plain data only, so that both
// sides work the same across a message port and within one thread.

import type { CatalogTrack, Kind } from './catalog.js';
import type { MergeCounters } from './merge.js';
import type { Source } from './source.js';

/** How far the engine is, in one word. */
export type Phase =
  | 'connecting'
  | 'live'
  /** Connected, but no media comes: the publisher has gone and may return. */
  | 'waiting'
  | 'reconnecting'
  | 'offline'
  | 'ended'
  | 'auth failed'
  | 'failed';

export interface EngineOptions {
  source: Source;
  /** SHA-256 of a self-signed certificate, hex. */
  certificateSha256: string | null;
  /** Where to ask for that hash again when a connection fails. */
  certificateUrl: string | null;
  /** Other relays that have the broadcast: `https://host:port`, with `#cert-sha256=…` where that is pinned. */
  addresses?: readonly string[];
}

export type ToEngine =
  | { kind: 'start'; options: EngineOptions }
  | { kind: 'stop' }
  /** Where the element is, in seconds, and how much it has ahead, in ms. */
  | { kind: 'position'; seconds: number; aheadMs: number }
  /** The element refused what it was fed. */
  | { kind: 'media-error'; reason: string }
  | { kind: 'token'; source: Source; token: string };

export interface TrackStats extends MergeCounters {
  name: string;
  codec: string;
  bytes: number;
  /** Over the last five seconds, in bits per second. */
  bitrate: number;
}

export interface EngineStats {
  draft: string;
  rttMs: number | null;
  connectMs: number | null;
  reconnects: number;
  /** Moves to another relay, on the word of the last one or because it fell silent. */
  moves: number;
  stalls: number;
  tracks: Partial<Record<Kind, TrackStats>>;
}

export type CatalogSummary = Omit<CatalogTrack, 'init'>[];

export type FromEngine =
  | { kind: 'ready' }
  /** A new media source; the element must be pointed at it. */
  | { kind: 'media'; media: MediaSourceHandle | MediaSource }
  | { kind: 'phase'; phase: Phase; reason: string; retryInMs: number | null }
  | { kind: 'catalog'; tracks: CatalogSummary }
  /**
   * A chunk arrived: its media time in seconds, when it was captured and when it came, in ms. Those of a joining FETCH
   * come in one burst, which says nothing about the path.
   */
  | { kind: 'chunk'; track: Kind; media: number; captured: number | null; arrived: number; joining: boolean }
  /** The timeline or the path is another one from here. */
  | { kind: 'restarted' }
  | { kind: 'stats'; stats: EngineStats };
