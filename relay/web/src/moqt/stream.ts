// Incremental readers of data streams: subgroup streams and fetch streams (section 11.4). Bytes in, whole objects out.
// Owns the object under way, within a limit; knows neither tracks nor requests beyond the numbers on the wire.

import { Cursor, ProtocolError, SessionCode } from './cursor.js';

/** Head of a subgroup stream. */
export interface SubgroupHead {
  kind: 'subgroup';
  alias: number;
  group: number;
  /** The last object of the stream is the last of its group. */
  endOfGroup: boolean;
}

/** Head of a fetch stream. */
export interface FetchHead {
  kind: 'fetch';
  request: number;
}

/** What a stream yields. */
export type Item =
  | SubgroupHead
  | FetchHead
  | { kind: 'object'; group: number; object: number; payload: Uint8Array }
  /** The group ends with the object before this one. */
  | { kind: 'end-of-group'; group: number; object: number }
  | { kind: 'end-of-track'; group: number }
  /** A fetch skips everything up to here, because it does not exist or because the relay does not know. */
  | { kind: 'gap'; end: { group: number; object: number }; known: boolean };

/** Stream types (section 11.4). */
export const FETCH_STREAM = 0x05;
export const PADDING_STREAM = 0x132b3e28;

// Bits of a subgroup header's type (section 11.4.2): 0b0XX1XXXX.
const BASE = 0x10;
const PROPERTIES = 0x01;
const MODE = 0x06;
const MODE_EXPLICIT = 0x04;
const END_OF_GROUP = 0x08;
const DEFAULT_PRIORITY = 0x20;
const TYPE_MAX = 0x7f;

/** Whether a stream of this type carries a subgroup. */
export function isSubgroup(type: number): boolean {
  return type <= TYPE_MAX && (type & BASE) !== 0 && (type & MODE) !== MODE;
}

/** Largest object taken: a keyframe of a 100 Mb/s rendition has 4 MB. */
const OBJECT_BYTES_MAX = 16 * 1024 * 1024;
/** Largest property block of an object; we use none. */
const PROPERTY_BYTES_MAX = 4 * 1024;

// Flags of a fetch object (section 11.4.4.1).
const F_MODE = 0x03;
const F_OBJECT = 0x04;
const F_GROUP = 0x08;
const F_PRIORITY = 0x10;
const F_PROPERTIES = 0x20;
const F_DATAGRAM = 0x40;
const F_MAX = 0x7f;
const GAP_NON_EXISTENT = 0x8c;
const GAP_UNKNOWN = 0x10c;

type State =
  | { kind: 'start' }
  | { kind: 'subgroup'; group: number; properties: boolean; previous: number | null }
  | { kind: 'fetch'; group: number | null; object: number }
  | { kind: 'padding' };

/** Reads one data stream as its bytes arrive. */
export class StreamReader {
  #state: State = { kind: 'start' };
  /** The beginning of a head whose rest has not arrived. */
  #held = new Uint8Array(0);
  /** The object under way: where it belongs, what has arrived, what is missing. */
  #open: { group: number; object: number; parts: Uint8Array[]; length: number; missing: number } | null = null;

  /** Bytes held for what is unfinished. */
  get pending(): number {
    return this.#held.length + (this.#open ? this.#open.length - this.#open.missing : 0);
  }

  *push(bytes: Uint8Array): Generator<Item> {
    let rest = bytes;
    for (;;) {
      if (this.#open) {
        const taken = rest.subarray(0, this.#open.missing);
        if (taken.length > 0) this.#open.parts.push(taken);
        this.#open.missing -= taken.length;
        rest = rest.subarray(taken.length);
        if (this.#open.missing > 0) return;
        const { group, object, parts, length } = this.#open;
        this.#open = null;
        yield { kind: 'object', group, object, payload: join(parts, length) };
      }
      if (this.#state.kind === 'padding') return;
      const carried = this.#held.length;
      const head = carried === 0 ? rest : join([this.#held, rest], carried + rest.length);
      if (head.length === 0) return;
      const cursor = new Cursor(head);
      const item = this.#head(cursor);
      if (cursor.short) {
        if (head.length > PROPERTY_BYTES_MAX + 128) throw violation('a head that does not end');
        this.#held = head.slice();
        return;
      }
      this.#held = new Uint8Array(0);
      rest = head.subarray(cursor.at);
      if (item) yield item;
    }
  }

  /** The peer finished the stream: inside an object is too early. */
  finish(): void {
    if (this.#open || this.#held.length > 0) throw violation('finished inside an object');
  }

  /** Reads a head and steps on, unless the cursor came up short. */
  #head(cursor: Cursor): Item | null {
    switch (this.#state.kind) {
      case 'start':
        return this.#start(cursor);
      case 'subgroup':
        return this.#subgroupObject(cursor, this.#state);
      case 'fetch':
        return this.#fetchObject(cursor, this.#state);
      default:
        return null;
    }
  }

  #start(cursor: Cursor): Item | null {
    const type = cursor.int();
    if (type === FETCH_STREAM) {
      const request = cursor.int();
      if (cursor.short) return null;
      this.#state = { kind: 'fetch', group: null, object: 0 };
      return { kind: 'fetch', request };
    }
    if (type === PADDING_STREAM) {
      this.#state = { kind: 'padding' };
      return null;
    }
    if (!isSubgroup(type)) {
      if (cursor.short) return null;
      throw violation(`stream type 0x${type.toString(16)} is unknown`);
    }
    const alias = cursor.int();
    const group = id(cursor.int());
    if ((type & MODE) === MODE_EXPLICIT) cursor.int();
    if ((type & DEFAULT_PRIORITY) === 0) cursor.byte();
    if (cursor.short) return null;
    this.#state = { kind: 'subgroup', group, properties: (type & PROPERTIES) !== 0, previous: null };
    return { kind: 'subgroup', alias, group, endOfGroup: (type & END_OF_GROUP) !== 0 };
  }

  #subgroupObject(cursor: Cursor, state: Extract<State, { kind: 'subgroup' }>): Item | null {
    const delta = cursor.int();
    const object = id(state.previous === null ? delta : state.previous + 1 + delta);
    if (state.properties) cursor.prefixed('object properties', PROPERTY_BYTES_MAX);
    const length = cursor.int();
    const status = length === 0 ? cursor.int() : 0;
    if (cursor.short) return null;
    state.previous = object;
    if (status === 3) return { kind: 'end-of-group', group: state.group, object };
    if (status === 4) return { kind: 'end-of-track', group: state.group };
    if (status !== 0) throw violation(`object status ${status} is unknown`);
    this.#expect(state.group, object, length);
    return null;
  }

  #fetchObject(cursor: Cursor, state: Extract<State, { kind: 'fetch' }>): Item | null {
    const flags = cursor.int();
    if (flags === GAP_NON_EXISTENT || flags === GAP_UNKNOWN) {
      const end = { group: cursor.int(), object: cursor.int() };
      cursor.int(); // Payload length, always 0.
      if (cursor.short) return null;
      state.group = end.group;
      state.object = end.object;
      return { kind: 'gap', end, known: flags === GAP_NON_EXISTENT };
    }
    if (flags > F_MAX) {
      if (cursor.short) return null;
      throw violation(`fetch flags 0x${flags.toString(16)} are unknown`);
    }
    const groupField = flags & F_GROUP ? cursor.int() : null;
    if ((flags & F_MODE) === F_MODE && (flags & F_DATAGRAM) === 0) cursor.int();
    const objectField = flags & F_OBJECT ? cursor.int() : null;
    if (flags & F_PRIORITY) cursor.byte();
    if (flags & F_PROPERTIES) cursor.prefixed('object properties', PROPERTY_BYTES_MAX);
    const length = cursor.int();
    if (cursor.short) return null;
    // The first object is absolute; later ones count from the one before, groups ascending as we asked.
    let { group, object } = state;
    if (group === null) {
      if (groupField === null || objectField === null) throw violation('the first fetch object refers to another');
      group = groupField;
      object = objectField;
    } else if (groupField === null) {
      object += objectField ?? 1;
    } else {
      group += groupField + 1;
      object = objectField ?? object + 1;
    }
    state.group = id(group);
    state.object = id(object);
    this.#expect(group, object, length);
    return null;
  }

  #expect(group: number, object: number, length: number): void {
    if (length > OBJECT_BYTES_MAX) {
      throw new ProtocolError(SessionCode.ExcessiveLoad, `an object of ${length} bytes, at most ${OBJECT_BYTES_MAX} are taken`);
    }
    this.#open = { group, object, parts: [], length, missing: length };
  }
}

function id(value: number): number {
  if (!Number.isSafeInteger(value)) throw violation('an id above 2^53-1');
  return value;
}

function violation(reason: string): ProtocolError {
  return new ProtocolError(SessionCode.ProtocolViolation, `data stream: ${reason}`);
}

/** One array of several; a single part is handed on as it is. */
function join(parts: Uint8Array[], length: number): Uint8Array {
  const [first] = parts;
  if (first && parts.length === 1) return first;
  const whole = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
