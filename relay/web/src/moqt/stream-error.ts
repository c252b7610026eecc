// The error by which a stream of a WebTransport is reset or stopped with a code. Browsers disagree on how one is made, and one
// that cannot be made must not break what it was for.

interface Constructor {
  /** As the specification has it. */
  new (message: string, init: { streamErrorCode: number }): Error;
  /** As Chromium had it first, and has it still. */
  new (init: { streamErrorCode: number }): Error;
}

export function streamError(code: number): Error | undefined {
  const { WebTransportError: Made } = globalThis as unknown as { WebTransportError?: Constructor };
  if (typeof Made !== 'function') return undefined;
  try {
    return new Made('', { streamErrorCode: code });
  } catch {
    // The code is worth another try, and the reset goes without one if need be.
  }
  try {
    return new Made({ streamErrorCode: code });
  } catch {
    return undefined;
  }
}
