// The `.catalog` of a broadcast: which tracks there are and what decodes them. Owns the checks on a stranger's JSON;
// whether this browser can play a codec is for sink.ts to find out.

export type Kind = 'video' | 'audio';

export interface CatalogTrack {
  name: string;
  kind: Kind;
  /** RFC 6381. */
  codec: string;
  init: Uint8Array<ArrayBuffer>;
  width: number | null;
  height: number | null;
  framerate: number | null;
  bitrate: number | null;
  sampleRate: number | null;
  channels: number | null;
}

export interface Catalog {
  live: boolean;
  tracks: CatalogTrack[];
}

/** 64 tracks of 8 KiB; anything larger is no catalog. */
const BYTES_MAX = 512 * 1024;
const TRACKS_MAX = 64;
const NAME_CHARS_MAX = 256;
const CODEC_CHARS_MAX = 64;

/** Null when the object is no catalog we understand; tracks of unknown kinds are left out. */
export function parseCatalog(bytes: Uint8Array): Catalog | null {
  if (bytes.length > BYTES_MAX) return null;
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return null;
  }
  if (!isRecord(json) || json['version'] !== 1 || !Array.isArray(json['tracks'])) return null;
  const tracks: CatalogTrack[] = [];
  for (const entry of json['tracks'].slice(0, TRACKS_MAX)) {
    const track = parseTrack(entry);
    if (track && !tracks.some(({ name }) => name === track.name)) tracks.push(track);
  }
  return { live: json['live'] === true, tracks };
}

function parseTrack(entry: unknown): CatalogTrack | null {
  if (!isRecord(entry)) return null;
  const { name, kind, codec, init } = entry;
  if (kind !== 'video' && kind !== 'audio') return null;
  if (typeof name !== 'string' || name === '' || name.length > NAME_CHARS_MAX) return null;
  if (typeof codec !== 'string' || codec.length > CODEC_CHARS_MAX || !/^[\w.-]+$/.test(codec)) return null;
  if (typeof init !== 'string') return null;
  const bytes = base64(init);
  if (!bytes) return null;
  return {
    name,
    kind,
    codec,
    init: bytes,
    width: number(entry['width']),
    height: number(entry['height']),
    framerate: number(entry['framerate']),
    bitrate: number(entry['bitrate']),
    sampleRate: number(entry['sampleRate']),
    channels: number(entry['channels']),
  };
}

/** The type string for MediaSource. */
export function mimeOf(track: CatalogTrack): string {
  return `${track.kind}/mp4; codecs="${track.codec}"`;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function number(value: unknown): number | null {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0 ? value : null;
}

function base64(text: string): Uint8Array<ArrayBuffer> | null {
  try {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  } catch {
    return null;
  }
}
