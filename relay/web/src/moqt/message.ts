// Control messages of draft 18 as a subscriber needs them: what it sends, and what it may be answered. Owns type numbers,
// parameter encodings and the framing (type, 16-bit length, body); which message may stand where is known to session.ts.

import { Builder, Cursor, ProtocolError, SessionCode } from './cursor.js';

/** Position in a track. */
export interface Location {
  group: number;
  object: number;
}

/** A REQUEST_ERROR. */
export interface RequestError {
  code: number;
  /** When to try again; null = do not. */
  retryMs: number | null;
  reason: string;
}

/** What a server may say. */
export type Message =
  | { kind: 'setup'; implementation: string | null }
  | { kind: 'goaway'; uri: string; timeoutMs: number }
  | { kind: 'subscribe-ok'; alias: number; largest: Location | null; mandatory: boolean }
  | { kind: 'fetch-ok'; end: Location }
  | { kind: 'request-ok'; largest: Location | null }
  | { kind: 'request-error'; error: RequestError }
  | { kind: 'publish-done'; code: number; streams: number | null; reason: string };

/** REQUEST_ERROR codes a viewer acts on (section 15.10). */
export const RequestCode = {
  Unauthorized: 0x1,
  MalformedToken: 0x4,
  ExpiredToken: 0x5,
  GoingAway: 0x6,
  DoesNotExist: 0x10,
} as const;

/** PUBLISH_DONE codes a viewer acts on. */
export const DoneCode = { Unauthorized: 0x1, TrackEnded: 0x2, GoingAway: 0x4, Expired: 0x6 } as const;

/** Stream types and message types share one number space where a uni stream starts with SETUP (section 3.3). */
export const SETUP = 0x2f00;
const GOAWAY = 0x10;
const UPDATE = 0x02;
const SUBSCRIBE = 0x03;
const SUBSCRIBE_OK = 0x04;
const REQUEST_ERROR = 0x05;
const REQUEST_OK = 0x07;
const PUBLISH_DONE = 0x0b;
const TRACK_STATUS = 0x0d;
const FETCH = 0x16;
const FETCH_OK = 0x18;

/** Longest reason phrase (section 1.4.4). */
const REASON_BYTES_MAX = 1024;
/** Longest GOAWAY URI (section 10.4). */
const URI_BYTES_MAX = 8192;
/** Longest value of a key-value pair (section 1.4.3). */
const VALUE_BYTES_MAX = 65535;
/** Track properties a subscriber must understand to use a track (section 12). We understand none. */
const MANDATORY_MIN = 0x4000;
const MANDATORY_MAX = 0x7fff;
const REDIRECT = 0x34;

function frame(kind: number, body: Builder): Uint8Array<ArrayBuffer> {
  const bytes = body.done();
  if (bytes.length > 0xffff) throw new RangeError('a control message above 65535 bytes');
  const length = new Uint8Array([bytes.length >> 8, bytes.length & 0xff]);
  return new Builder().int(kind).raw(length).raw(bytes).done();
}

/** SETUP of a client over WebTransport: path and authority are the URL's. */
export function encodeSetup(implementation: string): Uint8Array<ArrayBuffer> {
  return frame(SETUP, new Builder().int(IMPLEMENTATION).text(implementation));
}

const IMPLEMENTATION = 0x07;

/** What a SUBSCRIBE may ask beside its track. */
export interface SubscribeOptions {
  request: number;
  namespace: readonly string[];
  track: string;
  /** Lower is served first. */
  priority: number;
}

/** SUBSCRIBE with filter Largest Object: everything after what is largest when the relay accepts. */
export function encodeSubscribe({ request, namespace, track, priority }: SubscribeOptions): Uint8Array<ArrayBuffer> {
  const body = new Builder().int(request).namespace(namespace).text(track);
  // Two parameters in ascending order: SUBSCRIBER_PRIORITY (0x20, one byte), SUBSCRIPTION_FILTER (0x21, bytes).
  body.int(2).int(0x20).byte(priority).int(0x21 - 0x20).prefixed(new Uint8Array([LARGEST_OBJECT]));
  return frame(SUBSCRIBE, body);
}

const LARGEST_OBJECT = 2;

/** FETCH that joins a subscription: from the start of the group `groupsBack` before its largest object, up to there. */
export function encodeJoiningFetch(
  request: number,
  joins: number,
  groupsBack: number,
  priority: number,
): Uint8Array<ArrayBuffer> {
  const body = new Builder().int(request).int(RELATIVE_JOIN).int(joins).int(groupsBack);
  body.int(1).int(0x20).byte(priority);
  return frame(FETCH, body);
}

const RELATIVE_JOIN = 2;

/** TRACK_STATUS: cheap to answer, so its round trip is the session's. */
export function encodeTrackStatus(
  request: number,
  namespace: readonly string[],
  track: string,
): Uint8Array<ArrayBuffer> {
  return frame(TRACK_STATUS, new Builder().int(request).namespace(namespace).text(track).int(0));
}

/** REQUEST_UPDATE with a fresh AUTHORIZATION_TOKEN by value (section 10.2.2). */
export function encodeTokenUpdate(request: number, token: string): Uint8Array<ArrayBuffer> {
  const value = new Builder().int(USE_VALUE).int(TOKEN_TYPE_OUT_OF_BAND).raw(new TextEncoder().encode(token)).done();
  return frame(UPDATE, new Builder().int(request).int(1).int(0x03).prefixed(value));
}

const USE_VALUE = 3;
/** Section 10.2.2: type 0 says that both sides know the format. */
const TOKEN_TYPE_OUT_OF_BAND = 0;

/** Splits a control or request stream into messages; holds at most one unfinished message. */
export class Framer {
  #held = new Uint8Array(0);

  /** `max` is the longest body taken. */
  constructor(readonly max = 16 * 1024) {}

  /** Bytes of an unfinished message. */
  get pending(): number {
    return this.#held.length;
  }

  *push(bytes: Uint8Array): Generator<Message> {
    let all = bytes;
    if (this.#held.length > 0) {
      all = new Uint8Array(this.#held.length + bytes.length);
      all.set(this.#held);
      all.set(bytes, this.#held.length);
    }
    let from = 0;
    for (;;) {
      const head = new Cursor(all.subarray(from));
      const kind = head.int();
      const length = head.byte() * 256 + head.byte();
      if (head.short) break;
      if (length > this.max) {
        throw new ProtocolError(SessionCode.ProtocolViolation, `message ${hex(kind)} of ${length} bytes`);
      }
      const start = from + head.at;
      if (all.length < start + length) break;
      from = start + length;
      // Held bytes are set before each yield, so that a reader that stops early leaves the framer whole.
      this.#held = all.slice(from);
      yield decode(kind, all.subarray(start, from));
    }
    this.#held = all.slice(from);
  }
}

function decode(kind: number, body: Uint8Array): Message {
  const cursor = new Cursor(body);
  const message = read(kind, cursor);
  const what = `message ${hex(kind)}`;
  if (cursor.short) throw new ProtocolError(SessionCode.ProtocolViolation, `${what} ends inside a field`);
  if (cursor.left > 0) throw new ProtocolError(SessionCode.ProtocolViolation, `${what}: ${cursor.left} trailing bytes`);
  return message;
}

function read(kind: number, cursor: Cursor): Message {
  switch (kind) {
    case SETUP: {
      let implementation: string | null = null;
      pairs(cursor, (key, value) => {
        if (key === IMPLEMENTATION && typeof value !== 'number') implementation = new TextDecoder().decode(value);
      });
      return { kind: 'setup', implementation };
    }
    case GOAWAY: {
      const uri = cursor.text('GOAWAY URI', URI_BYTES_MAX);
      const timeoutMs = cursor.int();
      if (cursor.left > 0) cursor.int(); // The request it is about; on the control stream, all of them.
      return { kind: 'goaway', uri, timeoutMs };
    }
    case SUBSCRIBE_OK: {
      const alias = cursor.int();
      const { largest } = parameters(cursor);
      return { kind: 'subscribe-ok', alias, largest, mandatory: properties(cursor) };
    }
    case FETCH_OK: {
      cursor.byte(); // End of track.
      const end = { group: cursor.int(), object: cursor.int() };
      parameters(cursor);
      properties(cursor);
      return { kind: 'fetch-ok', end };
    }
    case REQUEST_OK: {
      const { largest } = parameters(cursor);
      properties(cursor);
      return { kind: 'request-ok', largest };
    }
    case REQUEST_ERROR: {
      const code = cursor.int();
      const retry = cursor.int();
      const reason = cursor.text('reason', REASON_BYTES_MAX);
      if (code === REDIRECT) {
        cursor.text('connect URI', URI_BYTES_MAX);
        cursor.namespace('redirect namespace');
        cursor.text('redirect track', VALUE_BYTES_MAX);
      }
      return { kind: 'request-error', error: { code, retryMs: retry === 0 ? null : retry - 1, reason } };
    }
    case PUBLISH_DONE: {
      const code = cursor.int();
      const streams = cursor.int();
      const reason = cursor.text('reason', REASON_BYTES_MAX);
      return { kind: 'publish-done', code, streams: Number.isFinite(streams) ? streams : null, reason };
    }
    default:
      throw new ProtocolError(SessionCode.ProtocolViolation, `message ${hex(kind)} is not for a subscriber`);
  }
}

/** Message parameters (section 10.2): a count, then type deltas, each with a value of its own form. */
function parameters(cursor: Cursor): { largest: Location | null } {
  let largest: Location | null = null;
  let key = 0;
  const count = cursor.int();
  for (let index = 0; index < count && !cursor.short; index += 1) {
    key += cursor.int();
    switch (key) {
      case 0x09:
        largest = { group: cursor.int(), object: cursor.int() };
        break;
      case 0x02:
      case 0x04:
      case 0x06:
      case 0x08:
      case 0x0a:
      case 0x32:
        cursor.int();
        break;
      case 0x10:
      case 0x20:
      case 0x22:
        cursor.byte();
        break;
      case 0x03:
      case 0x21:
        cursor.prefixed('parameter', VALUE_BYTES_MAX);
        break;
      default:
        throw new ProtocolError(SessionCode.ProtocolViolation, `parameter ${hex(key)} is unknown`);
    }
  }
  return { largest };
}

/** Reads track properties to the end; tells whether one of them must be understood. */
function properties(cursor: Cursor): boolean {
  let mandatory = false;
  pairs(cursor, (key) => {
    mandatory ||= key >= MANDATORY_MIN && key <= MANDATORY_MAX;
  });
  return mandatory;
}

/** Key-value pairs to the end of the message: even types hold an integer, odd ones bytes (section 1.4.3). */
function pairs(cursor: Cursor, each: (key: number, value: number | Uint8Array) => void): void {
  let key = 0;
  while (cursor.left > 0 && !cursor.short) {
    key += cursor.int();
    if (!Number.isSafeInteger(key)) {
      throw new ProtocolError(SessionCode.ProtocolViolation, 'a key above 2^53-1');
    }
    each(key, key % 2 === 0 ? cursor.int() : cursor.prefixed('value', VALUE_BYTES_MAX));
  }
}

function hex(kind: number): string {
  return `0x${kind.toString(16)}`;
}
