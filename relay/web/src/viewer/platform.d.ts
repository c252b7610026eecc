// What browsers have and TypeScript's library does not describe yet.

interface MediaSourceHandle {
  readonly [Symbol.toStringTag]: 'MediaSourceHandle';
}

interface MediaSource {
  /** Only in a dedicated worker. */
  readonly handle?: MediaSourceHandle;
}
