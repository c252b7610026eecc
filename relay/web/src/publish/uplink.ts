// A MoQT session that publishes, on a real WebTransport: two tracks, a stream for each of their groups. Owns what waits for
// the path and gives a group up when that is too much; never touches datagrams or a server's bidirectional stream.

import { ProtocolError } from '../moqt/cursor.js';
import { Framer, type Message, SETUP, encodeSetup, encodeTrackStatus } from '../moqt/message.js';
import { encodeGroupHead, encodeObjectHead, encodePublish, encodePublishDone } from '../moqt/publishing.js';
import { streamError } from '../moqt/stream-error.js';
import type { GroupObject } from './groups.js';

const DRAFT = 'moqt-18';
const READY_WITHIN_MS = 8000;
/** A session that the node ended fails first and says why afterwards, when the browser has read that far. */
const REASON_WITHIN_MS = 2000;
/** TOO_FAR_BEHIND of a reset data stream. */
const TOO_FAR_BEHIND = 0x5;
/** Sound first; the catalog, which would be before it, is the node's. */
const PRIORITY = { audio: 1, video: 2 } as const;
/** A question whose answer tells the round trip. */
const PROBE = '.round-trip';

export type Kind = 'video' | 'audio';

/** How a session ended: with a code and a reason of the node, or without (code null). */
export interface Ending {
  code: number | null;
  reason: string;
}

export interface UplinkOptions {
  url: string;
  certificate: Uint8Array<ArrayBuffer> | null;
  namespace: readonly string[];
  tracks: readonly Kind[];
}

interface Line {
  alias: number;
  streams: number;
  group: number;
  writer: Promise<WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>> | null;
  request: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>> | null;
  /** What is left of the group is not sent. */
  skipped: boolean;
}

export class Uplink {
  /** Resolves once, never rejects. */
  readonly ended: Promise<Ending>;
  /** Payload bytes the path has not taken. */
  queuedBytes = 0;
  sentBytes = 0;
  groupsDropped = 0;
  /** Round trip to the node, once known. */
  rttMs: number | null = null;
  onGoaway: (uri: string) => void = () => {};
  #transport: WebTransport;
  #end!: (ending: Ending) => void;
  #over = false;
  #lines = new Map<Kind, Line>();
  #request = 0;

  constructor(readonly options: UplinkOptions) {
    this.ended = new Promise((resolve) => (this.#end = resolve));
    const init: WebTransportOptions & { protocols: string[] } = { protocols: [DRAFT] };
    if (options.certificate) init.serverCertificateHashes = [{ algorithm: 'sha-256', value: options.certificate }];
    this.#transport = new WebTransport(options.url, init);
    this.#transport.closed.then(
      ({ closeCode, reason }) => this.#finish({ code: closeCode ?? 0, reason: reason ?? '' }),
      (error: unknown) => this.#finish({ code: null, reason: error instanceof Error ? error.message : String(error) }),
    );
  }

  /** Until the node takes every track; rejects with what `ended` says. */
  async ready(): Promise<void> {
    const timer = setTimeout(() => this.close(0, 'no answer'), READY_WITHIN_MS);
    try {
      await Promise.race([this.#begin(), this.ended.then(({ reason }) => Promise.reject(new Error(reason)))]);
    } catch (error) {
      const reason = (await this.#toldWithin(REASON_WITHIN_MS)) || (error instanceof Error ? error.message : String(error));
      this.close(0, reason);
      throw new Error(reason);
    } finally {
      clearTimeout(timer);
    }
  }

  /** What the node says at the end; empty when it says nothing in time. */
  #toldWithin(ms: number): Promise<string> {
    const late = new Promise<string>((resolve) => setTimeout(resolve, ms, ''));
    return Promise.race([this.ended.then(({ reason }) => reason), late]);
  }

  async #begin(): Promise<void> {
    await this.#transport.ready;
    const { protocol } = this.#transport as WebTransport & { protocol?: string };
    if (protocol === '') throw new Error(`the node does not speak ${DRAFT}`);
    const control = (await this.#transport.createUnidirectionalStream()).getWriter();
    await control.write(encodeSetup('weir-publisher'));
    void this.#listen();
    await Promise.all(this.options.tracks.map((kind, index) => this.#publish(kind, index + 1)));
  }

  /** Asks for the round trip. */
  async probe(): Promise<void> {
    if (this.#over) return;
    const asked = performance.now();
    const request = this.#takeId();
    try {
      const { writer, answer } = await this.#ask(encodeTrackStatus(request, this.options.namespace, PROBE));
      writer.close().catch(ignore);
      if (await answer) this.rttMs = performance.now() - asked;
    } catch {
      // Whatever the session died of is told elsewhere.
    }
  }

  /** Sends an object. What the path cannot take is kept up to the next group. */
  send({ track, group, object, payload }: GroupObject): void {
    const line = this.#lines.get(track);
    if (!line || this.#over) return;
    if (object === 0) {
      this.#finishGroup(line);
      line.group = group;
      line.skipped = false;
      line.streams += 1;
      line.writer = this.#transport.createUnidirectionalStream().then((stream: WritableStream<Uint8Array<ArrayBuffer>>) => stream.getWriter());
      line.writer.catch(ignore);
      this.#write(line, encodeGroupHead(line.alias, group, PRIORITY[track]));
    }
    if (line.group !== group || line.skipped) return;
    this.#write(line, encodeObjectHead(payload.length));
    this.#write(line, payload);
  }

  /** Gives up what is left of the groups under way: what waits is not worth waiting for. */
  skip(): void {
    for (const line of this.#lines.values()) {
      if (line.skipped || !line.writer) continue;
      line.skipped = true;
      this.groupsDropped += 1;
      const { writer } = line;
      line.writer = null;
      void writer.then((open) => open.abort(streamError(TOO_FAR_BEHIND))).catch(ignore);
    }
  }

  /** Says that nothing follows, lets what waits go out, and closes. */
  async finish(): Promise<void> {
    for (const line of this.#lines.values()) {
      this.#finishGroup(line);
      await line.request?.write(encodePublishDone(line.streams)).catch(ignore);
      await line.request?.close().catch(ignore);
    }
    // The goodbye overtakes streams that are still on their way.
    await new Promise((resolve) => setTimeout(resolve, 150));
    this.close(0, '');
  }

  close(code: number, reason: string): void {
    if (this.#over) return;
    try {
      this.#transport.close({ closeCode: code, reason });
    } catch {
      // It was not open yet.
    }
    this.#finish({ code: code === 0 ? null : code, reason });
  }

  #finish(ending: Ending): void {
    if (this.#over) return;
    this.#over = true;
    this.#end(ending);
  }

  #takeId(): number {
    this.#request += 2;
    return this.#request - 2;
  }

  async #publish(kind: Kind, alias: number): Promise<void> {
    const request = this.#takeId();
    const { writer, answer } = await this.#ask(encodePublish({ request, namespace: this.options.namespace, track: kind, alias }));
    const message = await answer;
    if (message?.kind === 'request-error') throw new Error(message.error.reason);
    if (message?.kind !== 'request-ok') throw new Error('the node does not answer PUBLISH');
    this.#lines.set(kind, { alias, streams: 0, group: -1, writer: null, request: writer, skipped: false });
  }

  /** A request on a stream of its own, and the first message of its answer. */
  async #ask(bytes: Uint8Array<ArrayBuffer>): Promise<{
    writer: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
    answer: Promise<Message | null>;
  }> {
    const both = await this.#transport.createBidirectionalStream();
    const writer = (both.writable as WritableStream<Uint8Array<ArrayBuffer>>).getWriter();
    await writer.write(bytes);
    return { writer, answer: this.#answer(both.readable as ReadableStream<Uint8Array>) };
  }

  async #answer(readable: ReadableStream<Uint8Array>): Promise<Message | null> {
    const reader = readable.getReader();
    const framer = new Framer();
    for (;;) {
      const { value, done } = await reader.read();
      for (const message of framer.push(value ?? new Uint8Array(0))) {
        // Later ones, such as updates of priorities, change nothing for us.
        void drain(reader);
        return message;
      }
      if (done) return null;
    }
  }

  #write(line: Line, bytes: Uint8Array<ArrayBuffer>): void {
    const { writer } = line;
    if (!writer) return;
    this.queuedBytes += bytes.length;
    void writer
      .then((open) => open.write(bytes))
      .then(() => (this.sentBytes += bytes.length))
      .catch(ignore)
      .finally(() => (this.queuedBytes -= bytes.length));
  }

  #finishGroup(line: Line): void {
    const { writer } = line;
    line.writer = null;
    void writer?.then((open) => open.close()).catch(ignore);
  }

  /** The node's streams: one of them is its control stream. */
  async #listen(): Promise<void> {
    try {
      const streams = (this.#transport.incomingUnidirectionalStreams as ReadableStream<ReadableStream<Uint8Array>>).getReader();
      for (;;) {
        const { value, done } = await streams.read();
        if (done) return;
        void this.#control(value);
      }
    } catch {
      // The session is over; `closed` says why.
    }
  }

  async #control(readable: ReadableStream<Uint8Array>): Promise<void> {
    const reader = readable.getReader();
    const framer = new Framer();
    let known = false;
    try {
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        // SETUP is 0xaf00 on the wire.
        if (!known && value[0] !== 0x80 + (SETUP >> 8)) return void drain(reader);
        known = true;
        for (const message of framer.push(value)) {
          if (message.kind === 'goaway') this.onGoaway(message.uri);
        }
      }
    } catch (error) {
      if (error instanceof ProtocolError) this.close(error.code, error.message);
    }
  }
}

async function drain(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> {
  try {
    for (let done = false; !done; ) ({ done } = await reader.read());
  } catch {
    // It ended, one way or the other.
  }
}

function ignore(): void {
  // The stream or the session is over, which is told elsewhere.
}
