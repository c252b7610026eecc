// Reading and writing the primitive fields of draft 18: vi64 integers, length-prefixed bytes, namespaces. Owns byte
// positions and nothing else; which field comes where is known to message.ts and stream.ts.
// Section numbers in this folder are those of draft-ietf-moq-transport-18.

/** The peer broke a rule, or a limit of ours: the session closes with this code. */
export class ProtocolError extends Error {
  constructor(
    readonly code: number,
    reason: string,
  ) {
    super(reason);
    this.name = 'ProtocolError';
  }
}

/** Session termination codes that we send or recognise (section 15.10). */
export const SessionCode = {
  NoError: 0x0,
  Unauthorized: 0x2,
  ProtocolViolation: 0x3,
  ExcessiveLoad: 0x9,
} as const;

/**
 * Takes fields off the front of bytes that may still grow. Running out sets `short` and yields zeros, so that a head is
 * read in one straight line and judged once at its end.
 */
export class Cursor {
  at = 0;
  short = false;

  constructor(readonly bytes: Uint8Array) {}

  get left(): number {
    return this.bytes.length - this.at;
  }

  byte(): number {
    const value = this.bytes[this.at];
    if (value === undefined) {
      this.short = true;
      return 0;
    }
    this.at += 1;
    return value;
  }

  /**
   * A vi64 (section 1.4.1): leading ones of the first byte count the bytes that follow. Above 2^53-1 a number cannot
   * tell neighbours apart: such a value is read as Infinity, which every limit refuses and which still compares right.
   */
  int(): number {
    const first = this.byte();
    const extra = Math.clz32(~(first << 24));
    if (this.left < extra) {
      this.short = true;
      return 0;
    }
    let value = extra >= 7 ? 0 : first & (0x7f >> extra);
    for (let index = 0; index < extra; index += 1) value = value * 256 + (this.bytes[this.at + index] ?? 0);
    this.at += extra;
    return value > Number.MAX_SAFE_INTEGER ? Infinity : value;
  }

  /** Bytes behind a length, which is compared with `max` before any of them is awaited. */
  prefixed(field: string, max: number): Uint8Array {
    const length = this.int();
    if (length > max) throw new ProtocolError(SessionCode.ProtocolViolation, `${field}: length ${length} is above ${max}`);
    return this.take(length);
  }

  text(field: string, max: number): string {
    return new TextDecoder().decode(this.prefixed(field, max));
  }

  take(length: number): Uint8Array {
    if (this.left < length) {
      this.short = true;
      return new Uint8Array(0);
    }
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }

  /** Track namespace (section 1.4.2): at most 32 fields. */
  namespace(field: string): string[] {
    const count = this.int();
    if (count > NAMESPACE_FIELDS_MAX) {
      throw new ProtocolError(SessionCode.ProtocolViolation, `${field}: ${count} fields`);
    }
    const fields: string[] = [];
    for (let index = 0; index < count && !this.short; index += 1) fields.push(this.text(field, NAME_BYTES_MAX));
    return fields;
  }
}

/** Section 1.4.2. */
const NAMESPACE_FIELDS_MAX = 32;
/** Section 2.4.1: a namespace and a name together. */
export const NAME_BYTES_MAX = 4096;

/** Appends fields to a buffer that grows. Values come from us, so one that does not fit is our bug and throws. */
export class Builder {
  #bytes = new Uint8Array(64);
  #length = 0;

  byte(value: number): this {
    this.#reserve(1);
    this.#bytes[this.#length] = value;
    this.#length += 1;
    return this;
  }

  int(value: number): this {
    if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`${value} is no vi64`);
    let size = 1;
    while (size < 8 && value >= 2 ** (7 * size)) size += 1;
    this.#reserve(size);
    let rest = value;
    for (let index = size - 1; index >= 0; index -= 1) {
      this.#bytes[this.#length + index] = rest % 256;
      rest = Math.floor(rest / 256);
    }
    // The first `size - 1` bits say how many bytes follow; the value leaves them zero.
    const marks = 0xff & ~(0xff >> (size - 1));
    this.#bytes[this.#length] = (this.#bytes[this.#length] ?? 0) | marks;
    this.#length += size;
    return this;
  }

  raw(bytes: Uint8Array): this {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
    return this;
  }

  prefixed(bytes: Uint8Array): this {
    return this.int(bytes.length).raw(bytes);
  }

  text(text: string): this {
    return this.prefixed(new TextEncoder().encode(text));
  }

  namespace(fields: readonly string[]): this {
    this.int(fields.length);
    for (const field of fields) this.text(field);
    return this;
  }

  done(): Uint8Array<ArrayBuffer> {
    return this.#bytes.slice(0, this.#length);
  }

  #reserve(more: number): void {
    const wanted = this.#length + more;
    if (wanted <= this.#bytes.length) return;
    const grown = new Uint8Array(Math.max(wanted, this.#bytes.length * 2));
    grown.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = grown;
  }
}
