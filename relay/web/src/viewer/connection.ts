// A MoQT session on a real WebTransport: carries bytes between the browser's streams and the sans-IO session. Owns readers
// and writers; never opens or accepts a datagram or a server's bidirectional stream, which some browsers choke on.

import { SessionCode } from '../moqt/cursor.js';
import { type Event, Session } from '../moqt/session.js';
import { streamError } from '../moqt/stream-error.js';

export const DRAFT = 'moqt-18';

/** How a connection ended. */
export interface Ending {
  /** MoQT session code, or null when the connection just went away. */
  code: number | null;
  reason: string;
}

/** What an engine needs of a connection; tests have one without a network. */
export interface Link {
  readonly session: Session;
  /** Resolves once, never rejects. */
  readonly ended: Promise<Ending>;
  /** Until the relay has accepted; rejects with a reason for people. */
  ready(): Promise<void>;
  /** Carries out what the session asks for; call after every command. */
  pump(): void;
  close(code: number, reason: string): void;
}

/** From `new WebTransport` to `ready`: a round trip or two, and a certificate check. */
const READY_WITHIN_MS = 8000;

export class Connection implements Link {
  readonly session = new Session('weir-player');
  /** Resolves once, never rejects. */
  readonly ended: Promise<Ending>;
  #transport: WebTransport;
  #end!: (ending: Ending) => void;
  #over = false;
  /** Streams cannot be opened earlier; what the session wants to say until then waits in it. */
  #isReady = false;
  #writers = new Map<number, Promise<WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>>>();
  #readers = new Map<number, ReadableStreamDefaultReader<Uint8Array>>();

  constructor(
    url: string,
    certificate: Uint8Array<ArrayBuffer> | null,
    readonly onEvent: (event: Event) => void,
  ) {
    this.ended = new Promise((resolve) => (this.#end = resolve));
    const options: WebTransportOptions & { protocols: string[] } = { protocols: [DRAFT] };
    if (certificate) options.serverCertificateHashes = [{ algorithm: 'sha-256', value: certificate }];
    this.#transport = new WebTransport(url, options);
    this.#transport.closed.then(
      ({ closeCode, reason }) => this.#finish({ code: closeCode ?? 0, reason: reason ?? '' }),
      (error: unknown) => this.#finish({ code: null, reason: messageOf(error) }),
    );
  }

  /** Until the server has accepted; rejects with a reason for people. */
  async ready(): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const timeout = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error('no answer')), READY_WITHIN_MS);
    });
    try {
      await Promise.race([this.#transport.ready, timeout]);
    } catch (error) {
      this.close(0, '');
      throw error;
    } finally {
      clearTimeout(timer);
    }
    // Browsers without the `protocols` option have no `protocol`; an empty one says that nothing matched.
    const { protocol } = this.#transport as WebTransport & { protocol?: string };
    if (protocol === '') {
      this.close(0, '');
      throw new Error(`the relay does not speak ${DRAFT}`);
    }
    this.#isReady = true;
    void this.#accept();
    this.pump();
  }

  /** Carries out what the session asks for; call after every command. */
  pump(): void {
    if (!this.#isReady) return;
    for (let event = this.session.pollEvent(); event; event = this.session.pollEvent()) {
      if (this.#over) return;
      this.onEvent(event);
    }
    for (let output = this.session.pollOutput(); output; output = this.session.pollOutput()) {
      if (this.#over) return;
      switch (output.kind) {
        case 'open':
          this.#open(output.stream, output.dir);
          break;
        case 'write':
          void this.#write(output.stream, output.data, output.fin);
          break;
        case 'reset': {
          const writer = this.#writers.get(output.stream);
          this.#writers.delete(output.stream);
          void writer?.then((open) => open.abort(streamError(output.code))).catch(ignore);
          break;
        }
        case 'stop': {
          const reader = this.#readers.get(output.stream);
          this.#readers.delete(output.stream);
          void reader?.cancel(streamError(output.code)).catch(ignore);
          break;
        }
        case 'close':
          this.close(output.code, output.reason);
          break;
      }
    }
  }

  close(code: number, reason: string): void {
    if (this.#over) return;
    try {
      this.#transport.close({ closeCode: code, reason });
    } catch {
      // It was not open yet.
    }
    this.#finish({ code, reason });
  }

  #finish(ending: Ending): void {
    if (this.#over) return;
    this.#over = true;
    this.#end(ending);
  }

  #open(stream: number, dir: 'uni' | 'bidi'): void {
    const opened = this.#opened(stream, dir);
    opened.catch(ignore);
    this.#writers.set(stream, opened);
  }

  async #opened(stream: number, dir: 'uni' | 'bidi'): Promise<WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>> {
    if (dir === 'uni') {
      const writable: WritableStream<Uint8Array<ArrayBuffer>> = await this.#transport.createUnidirectionalStream();
      return writable.getWriter();
    }
    const both = await this.#transport.createBidirectionalStream();
    const readable: ReadableStream<Uint8Array> = both.readable;
    const writable: WritableStream<Uint8Array<ArrayBuffer>> = both.writable;
    void this.#read(stream, readable);
    return writable.getWriter();
  }

  async #write(stream: number, data: Uint8Array<ArrayBuffer>, fin: boolean): Promise<void> {
    try {
      const writer = await this.#writers.get(stream);
      // Not awaited: requests are small, and the next one must not wait for this one's acknowledgement.
      if (data.length > 0) writer?.write(data).catch(ignore);
      if (!fin) return;
      this.#writers.delete(stream);
      await writer?.close();
    } catch {
      // The peer stopped the stream, or the session is over; its reading side says so.
    }
  }

  async #accept(): Promise<void> {
    try {
      const streams: ReadableStreamDefaultReader<ReadableStream<Uint8Array>> =
        this.#transport.incomingUnidirectionalStreams.getReader();
      for (;;) {
        const { value, done } = await streams.read();
        if (done || this.#over) return;
        void this.#read(this.session.accept(), value);
      }
    } catch {
      // The session is over; `closed` says why.
    }
  }

  async #read(stream: number, readable: ReadableStream<Uint8Array>): Promise<void> {
    const reader = readable.getReader();
    this.#readers.set(stream, reader);
    this.pump();
    try {
      for (;;) {
        const { value, done } = await reader.read();
        if (this.#over) return;
        this.session.handleStream(stream, value ?? new Uint8Array(0), done);
        this.pump();
        if (done) break;
      }
    } catch (error) {
      // When the whole session ends, `closed` knows why and its streams do not.
      if (this.#over || endsSession(error)) return;
      this.session.handleReset(stream);
      this.pump();
    }
    this.#readers.delete(stream);
  }
}

/** Whether the relay ended the session over the token. */
export function isAuthFailure({ code, reason }: Ending): boolean {
  return code === SessionCode.Unauthorized || reason.startsWith('auth_failed');
}

function endsSession(error: unknown): boolean {
  return typeof WebTransportError === 'function' && error instanceof WebTransportError && error.source === 'session';
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function ignore(): void {
  // The stream or the session is over, which is told elsewhere.
}
