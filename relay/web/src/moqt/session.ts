// A subscriber's side of one MoQT session, draft 18, without any I/O: bytes of streams in, bytes and events out. Owns
// request ids, the mapping from track aliases to requests, and every limit; knows no media and no clock.

import { Cursor, ProtocolError, SessionCode } from './cursor.js';
import {
  type Location,
  type Message,
  type RequestError,
  Framer,
  SETUP,
  encodeJoiningFetch,
  encodeSetup,
  encodeSubscribe,
  encodeTokenUpdate,
  encodeTrackStatus,
} from './message.js';
import { type Item, StreamReader } from './stream.js';

/** What the transport is to do. Streams are named by numbers that the session gives to those it opens. */
export type Output =
  | { kind: 'open'; stream: number; dir: 'uni' | 'bidi' }
  | { kind: 'write'; stream: number; data: Uint8Array<ArrayBuffer>; fin: boolean }
  | { kind: 'reset'; stream: number; code: number }
  | { kind: 'stop'; stream: number; code: number }
  | { kind: 'close'; code: number; reason: string };

/** What happened. `request` is what `subscribe` and its siblings returned. */
export type Event =
  | { kind: 'setup'; implementation: string | null }
  | { kind: 'goaway'; uri: string; timeoutMs: number }
  | { kind: 'subscribed'; request: number; largest: Location | null }
  | { kind: 'fetching'; request: number; end: Location }
  | { kind: 'status'; request: number }
  | { kind: 'refused'; request: number; error: RequestError }
  | { kind: 'done'; request: number; code: number; reason: string }
  | { kind: 'object'; request: number; group: number; object: number; payload: Uint8Array }
  | { kind: 'gap'; request: number; end: Location; known: boolean }
  | { kind: 'group-end'; request: number; group: number; object: number | null }
  /** A subgroup stream was reset: what has not come of this group will not come. */
  | { kind: 'group-lost'; request: number; group: number }
  | { kind: 'fetch-end'; request: number; complete: boolean };

/** Every limit, by name. */
export interface Limits {
  /** Data streams open at once: 4 tracks of 8 groups. Past it, a new one is stopped. */
  streams: number;
  /** Data streams whose alias is not known yet. Past it, they are stopped. */
  pendingStreams: number;
  /** Bytes held for those: one second of an 8 Mb/s rendition. Past it, they are stopped. */
  pendingBytes: number;
}

export const LIMITS: Limits = { streams: 64, pendingStreams: 16, pendingBytes: 1024 * 1024 };

/** Reset and stop codes (section 15.10). */
const CANCELLED = 0x1;
const EXCESSIVE_LOAD = 0x9;

type RequestKind = 'subscribe' | 'fetch' | 'status' | 'update';

interface Request {
  kind: RequestKind;
  stream: number;
  framer: Framer;
  answered: boolean;
  alias: number | null;
}

interface Incoming {
  /** Bytes kept until the stream's type, or the request of its alias, is known. */
  held: Uint8Array[];
  heldBytes: number;
  fin: boolean;
  reset: boolean;
  reader: StreamReader | null;
  control: Framer | null;
  request: number | null;
  /** Alias that no SUBSCRIBE_OK has named so far. */
  waitsFor: number | null;
  group: number | null;
  endOfGroup: boolean;
}

export class Session {
  #outputs: Output[] = [];
  #events: Event[] = [];
  #nextStream = 0;
  #nextRequest = 0;
  #requests = new Map<number, Request>();
  #byStream = new Map<number, number>();
  #aliases = new Map<number, number>();
  #incoming = new Map<number, Incoming>();
  #pendingBytes = 0;
  #closed = false;
  #setup = false;

  /** The SETUP is ready to be sent at once; requests need not wait for the answer. */
  constructor(
    implementation: string,
    readonly limits: Limits = LIMITS,
  ) {
    const stream = this.#open('uni');
    this.#write(stream, encodeSetup(implementation), false);
  }

  // Requests.

  subscribe(namespace: readonly string[], track: string, priority: number): number {
    const request = this.#request('subscribe');
    this.#send(request, encodeSubscribe({ request, namespace, track, priority }), false);
    return request;
  }

  /** From the start of the group of a subscription's largest object up to that object. */
  fetchJoining(joins: number, groupsBack: number, priority: number): number {
    const request = this.#request('fetch');
    this.#send(request, encodeJoiningFetch(request, joins, groupsBack, priority), false);
    return request;
  }

  trackStatus(namespace: readonly string[], track: string): number {
    const request = this.#request('status');
    this.#send(request, encodeTrackStatus(request, namespace, track), false);
    return request;
  }

  /** Renews the right to watch in the middle of a session. */
  renewToken(subscription: number, token: string): void {
    const known = this.#requests.get(subscription);
    if (!known) return;
    const request = this.#takeId();
    this.#write(known.stream, encodeTokenUpdate(request, token), false);
  }

  /** Takes a request back: RESET_STREAM and STOP_SENDING on its stream. */
  cancel(request: number): void {
    const known = this.#requests.get(request);
    if (!known) return;
    this.#outputs.push({ kind: 'reset', stream: known.stream, code: CANCELLED });
    this.#outputs.push({ kind: 'stop', stream: known.stream, code: CANCELLED });
    this.#remove(request, known);
  }

  close(code: number, reason: string): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#outputs.push({ kind: 'close', code, reason });
  }

  pollOutput(): Output | undefined {
    return this.#outputs.shift();
  }

  pollEvent(): Event | undefined {
    return this.#events.shift();
  }

  // Streams.

  /** A number for a stream that the peer opened. */
  accept(): number {
    const stream = this.#nextStream;
    this.#nextStream += 1;
    if (this.#incoming.size >= this.limits.streams) {
      this.#outputs.push({ kind: 'stop', stream, code: EXCESSIVE_LOAD });
      return stream;
    }
    this.#incoming.set(stream, {
      held: [],
      heldBytes: 0,
      fin: false,
      reset: false,
      reader: null,
      control: null,
      request: null,
      waitsFor: null,
      group: null,
      endOfGroup: false,
    });
    return stream;
  }

  /** Bytes arrived on a stream, or its end. A broken rule ends in an output `close`. */
  handleStream(stream: number, data: Uint8Array, fin: boolean): void {
    if (this.#closed) return;
    this.#guard(() => {
      const request = this.#byStream.get(stream);
      if (request !== undefined) this.#onRequestStream(request, data, fin);
      const incoming = this.#incoming.get(stream);
      if (incoming) this.#onIncoming(stream, incoming, data, fin);
    });
  }

  handleReset(stream: number): void {
    if (this.#closed) return;
    const request = this.#byStream.get(stream);
    if (request !== undefined) {
      const known = this.#requests.get(request);
      this.#forget(request);
      if (known?.kind === 'fetch') this.#events.push({ kind: 'fetch-end', request, complete: false });
      else this.#events.push({ kind: 'done', request, code: 0, reason: 'the request stream was reset' });
      return;
    }
    const incoming = this.#incoming.get(stream);
    if (!incoming) return;
    if (incoming.waitsFor !== null) {
      incoming.reset = true;
      return;
    }
    this.#drop(stream, incoming);
    if (incoming.control) this.close(SessionCode.ProtocolViolation, 'the control stream was reset');
    else this.#lost(incoming);
  }

  #lost(incoming: Incoming): void {
    const { request, group } = incoming;
    if (request === null) return;
    if (group === null) this.#events.push({ kind: 'fetch-end', request, complete: false });
    else this.#events.push({ kind: 'group-lost', request, group });
  }

  #guard(run: () => void): void {
    try {
      run();
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.close(error.code, error.message);
    }
  }

  #onRequestStream(request: number, data: Uint8Array, fin: boolean): void {
    const known = this.#requests.get(request);
    if (!known) return;
    for (const message of known.framer.push(data)) {
      this.#answer(request, known, message);
      if (!this.#requests.has(request)) return;
    }
    if (!fin) return;
    // A FIN after the answer of a FETCH or TRACK_STATUS is its normal end; a subscription ends with PUBLISH_DONE.
    this.#forget(request, known.kind === 'fetch' && known.answered);
    if (!known.answered || known.kind === 'subscribe') {
      this.#events.push({ kind: 'done', request, code: 0, reason: 'the request stream ended without an answer' });
    }
  }

  #answer(request: number, known: Request, message: Message): void {
    const unexpected = () =>
      new ProtocolError(SessionCode.ProtocolViolation, `${message.kind} does not answer a ${known.kind}`);
    switch (message.kind) {
      case 'subscribe-ok': {
        if (known.kind !== 'subscribe' || known.answered) throw unexpected();
        known.answered = true;
        if (message.mandatory) {
          this.cancel(request);
          const error = { code: 0x33, retryMs: null, reason: 'the track has properties this player does not know' };
          this.#events.push({ kind: 'refused', request, error });
          return;
        }
        const holder = this.#aliases.get(message.alias);
        if (holder !== undefined && holder !== request) {
          throw new ProtocolError(0x5, `track alias ${message.alias} is used twice`);
        }
        known.alias = message.alias;
        this.#aliases.set(message.alias, request);
        this.#events.push({ kind: 'subscribed', request, largest: message.largest });
        this.#adopt(message.alias, request);
        return;
      }
      case 'fetch-ok':
        if (known.kind !== 'fetch' || known.answered) throw unexpected();
        known.answered = true;
        this.#events.push({ kind: 'fetching', request, end: message.end });
        return;
      case 'request-ok':
        // On a subscription's stream it answers a REQUEST_UPDATE.
        if (known.kind === 'fetch' || (known.kind === 'subscribe' && !known.answered)) throw unexpected();
        known.answered = true;
        if (known.kind === 'status') {
          this.#forget(request);
          this.#events.push({ kind: 'status', request });
        }
        return;
      case 'request-error':
        this.#forget(request);
        this.#events.push({ kind: 'refused', request, error: message.error });
        return;
      case 'publish-done':
        if (known.kind !== 'subscribe') throw unexpected();
        // Its streams may still be under way: the alias stays known until the session ends or it is used anew.
        this.#forget(request, true);
        this.#events.push({ kind: 'done', request, code: message.code, reason: message.reason });
        return;
      case 'goaway':
        this.#events.push({ kind: 'goaway', uri: message.uri, timeoutMs: message.timeoutMs });
        return;
      case 'setup':
        throw unexpected();
    }
  }

  #onIncoming(stream: number, incoming: Incoming, data: Uint8Array, fin: boolean): void {
    if (incoming.control) {
      for (const message of incoming.control.push(data)) this.#onControl(message);
      if (fin) throw new ProtocolError(SessionCode.ProtocolViolation, 'the control stream ended');
      return;
    }
    if (incoming.waitsFor !== null) {
      this.#hold(stream, incoming, data, fin);
      return;
    }
    if (!incoming.reader) {
      const bytes = incoming.held.length === 0 ? data : concat(incoming.held, data);
      const cursor = new Cursor(bytes);
      const type = cursor.int();
      if (cursor.short) {
        if (fin) this.#drop(stream, incoming);
        else incoming.held = [bytes.slice()];
        return;
      }
      incoming.held = [];
      if (type === SETUP) {
        incoming.control = new Framer();
        this.#onIncoming(stream, incoming, bytes, fin);
        return;
      }
      incoming.reader = new StreamReader();
      this.#read(stream, incoming, bytes, fin);
      return;
    }
    this.#read(stream, incoming, data, fin);
  }

  #onControl(message: Message): void {
    if (!this.#setup && message.kind !== 'setup') {
      throw new ProtocolError(SessionCode.ProtocolViolation, `${message.kind} before SETUP`);
    }
    if (message.kind === 'setup' && !this.#setup) {
      this.#setup = true;
      this.#events.push({ kind: 'setup', implementation: message.implementation });
    } else if (message.kind === 'goaway') {
      this.#events.push({ kind: 'goaway', uri: message.uri, timeoutMs: message.timeoutMs });
    } else {
      throw new ProtocolError(SessionCode.ProtocolViolation, `${message.kind} on the control stream`);
    }
  }

  #read(stream: number, incoming: Incoming, data: Uint8Array, fin: boolean): void {
    const reader = incoming.reader;
    if (!reader) return;
    const items = reader.push(data);
    for (let next = items.next(); !next.done; next = items.next()) {
      this.#onItem(stream, incoming, next.value);
      if (!this.#incoming.has(stream)) return;
      if (incoming.waitsFor !== null) {
        // The rest is read once the alias is known: what the reader has taken so far stays in it.
        const rest = [...drain(items)];
        incoming.held = [];
        this.#deferred.set(stream, rest);
        incoming.heldBytes = data.length;
        this.#pendingBytes += data.length;
        incoming.fin = fin;
        this.#checkPending(stream, incoming);
        return;
      }
    }
    if (fin) this.#finish(stream, incoming);
  }

  /** Items read behind a head whose alias is not known yet. */
  #deferred = new Map<number, Item[]>();

  #onItem(stream: number, incoming: Incoming, item: Item): void {
    switch (item.kind) {
      case 'fetch': {
        const known = this.#requests.get(item.request);
        incoming.request = item.request;
        // Also after the FETCH was taken back: those streams are still under way.
        if (known?.kind !== 'fetch' && !this.#finishedFetches.has(item.request)) this.#refuse(stream, incoming);
        return;
      }
      case 'subgroup': {
        incoming.group = item.group;
        incoming.endOfGroup = item.endOfGroup;
        const request = this.#aliases.get(item.alias);
        if (request === undefined) incoming.waitsFor = item.alias;
        else incoming.request = request;
        return;
      }
      case 'gap':
        if (incoming.request !== null) {
          this.#events.push({ kind: 'gap', request: incoming.request, end: item.end, known: item.known });
        }
        return;
      case 'object':
        if (incoming.request !== null) this.#events.push({ ...item, request: incoming.request });
        return;
      case 'end-of-group':
        if (incoming.request !== null) {
          this.#events.push({ kind: 'group-end', request: incoming.request, group: item.group, object: item.object });
        }
        return;
      case 'end-of-track':
        return;
    }
  }

  #finish(stream: number, incoming: Incoming): void {
    const { reader, request, group } = incoming;
    this.#drop(stream, incoming);
    reader?.finish();
    if (request === null) return;
    if (group !== null) {
      if (incoming.endOfGroup) this.#events.push({ kind: 'group-end', request, group, object: null });
      return;
    }
    this.#finishedFetches.delete(request);
    this.#forget(request);
    this.#events.push({ kind: 'fetch-end', request, complete: true });
  }

  // Streams that came before the SUBSCRIBE_OK that names their alias.

  #hold(stream: number, incoming: Incoming, data: Uint8Array, fin: boolean): void {
    incoming.held.push(data);
    incoming.heldBytes += data.length;
    this.#pendingBytes += data.length;
    incoming.fin ||= fin;
    this.#checkPending(stream, incoming);
  }

  #checkPending(stream: number, incoming: Incoming): void {
    let streams = 0;
    for (const other of this.#incoming.values()) if (other.waitsFor !== null) streams += 1;
    if (streams > this.limits.pendingStreams || this.#pendingBytes > this.limits.pendingBytes) {
      this.#refuse(stream, incoming);
    }
  }

  #adopt(alias: number, request: number): void {
    for (const [stream, incoming] of this.#incoming) {
      if (incoming.waitsFor !== alias) continue;
      incoming.waitsFor = null;
      incoming.request = request;
      this.#pendingBytes -= incoming.heldBytes;
      incoming.heldBytes = 0;
      const held = incoming.held;
      incoming.held = [];
      for (const item of this.#deferred.get(stream) ?? []) this.#onItem(stream, incoming, item);
      this.#deferred.delete(stream);
      for (const data of held) this.#read(stream, incoming, data, false);
      if (incoming.reset) {
        this.#drop(stream, incoming);
        this.#lost(incoming);
      } else if (incoming.fin) {
        this.#finish(stream, incoming);
      }
    }
  }

  #refuse(stream: number, incoming: Incoming): void {
    this.#outputs.push({ kind: 'stop', stream, code: EXCESSIVE_LOAD });
    this.#drop(stream, incoming);
  }

  #drop(stream: number, incoming: Incoming): void {
    this.#pendingBytes -= incoming.heldBytes;
    incoming.heldBytes = 0;
    this.#deferred.delete(stream);
    this.#incoming.delete(stream);
  }

  // Requests, inside.

  /** FETCHes whose request stream ended before their data stream. */
  #finishedFetches = new Set<number>();

  #takeId(): number {
    const request = this.#nextRequest;
    this.#nextRequest += 2;
    return request;
  }

  #request(kind: RequestKind): number {
    const request = this.#takeId();
    const stream = this.#open('bidi');
    this.#requests.set(request, { kind, stream, framer: new Framer(), answered: false, alias: null });
    this.#byStream.set(stream, request);
    return request;
  }

  /** The request is over: our side of its stream ends too. */
  #forget(request: number, keepData = false): void {
    const known = this.#requests.get(request);
    if (!known) return;
    this.#write(known.stream, new Uint8Array(0), true);
    this.#remove(request, known, keepData);
  }

  #remove(request: number, known: Request, keepData = false): void {
    this.#requests.delete(request);
    this.#byStream.delete(known.stream);
    if (keepData && known.kind === 'fetch') this.#finishedFetches.add(request);
    if (!keepData && known.alias !== null) this.#aliases.delete(known.alias);
  }

  #open(dir: 'uni' | 'bidi'): number {
    const stream = this.#nextStream;
    this.#nextStream += 1;
    this.#outputs.push({ kind: 'open', stream, dir });
    return stream;
  }

  #send(request: number, data: Uint8Array<ArrayBuffer>, fin: boolean): void {
    const known = this.#requests.get(request);
    if (known) this.#write(known.stream, data, fin);
  }

  #write(stream: number, data: Uint8Array<ArrayBuffer>, fin: boolean): void {
    this.#outputs.push({ kind: 'write', stream, data, fin });
  }
}

function concat(parts: Uint8Array[], last: Uint8Array): Uint8Array {
  const all = [...parts, last];
  const whole = new Uint8Array(all.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of all) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function* drain(items: Generator<Item>): Generator<Item> {
  for (let next = items.next(); !next.done; next = items.next()) yield next.value;
}
