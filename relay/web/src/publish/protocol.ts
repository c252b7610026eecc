// What page and studio say to each other, be the studio in a worker or beside the page.

/** Where a publisher is in its life. */
export type State = 'idle' | 'connecting' | 'live' | 'reconnecting' | 'ended' | 'failed';

export interface Trouble {
  /** As the API names it: `auth_failed`, `input_busy`, `codec_unsupported`, … */
  code: string;
  message: string;
}

export interface Stats {
  /** What the path took in the last second, in b/s. */
  bitrate: number;
  /** What picture and sound may have together, as the rate control has it now. */
  target: number;
  fps: number;
  width: number;
  height: number;
  videoCodec: string | null;
  audioCodec: string | null;
  rttMs: number | null;
  queuedMs: number;
  framesDropped: number;
  groupsDropped: number;
  reconnects: number;
}

export interface StudioOptions {
  /** `https://host:port/publish/<id>?sk=…` */
  url: string;
  namespace: string[];
  certificateSha256: string | null;
  keyframeMs: number;
  videoBitrate: number;
  audioBitrate: number;
  /** Attempts to come back end after this. */
  reconnectMs: number;
  video: ReadableStream<VideoFrame> | null;
  audio: ReadableStream<AudioData> | null;
}

export type ToStudio = { kind: 'start'; options: StudioOptions } | { kind: 'stop' };

export type FromStudio =
  | { kind: 'ready' }
  | { kind: 'state'; state: State; trouble: Trouble | null; retryInMs: number | null }
  | { kind: 'stats'; stats: Stats };
