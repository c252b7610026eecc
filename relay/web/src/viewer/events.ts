// Typed events over the browser's own EventTarget, so that listeners know what they get.

import type { CatalogSummary } from './protocol.js';
import type { State } from './viewer.js';

export interface ViewerEvents {
  statechange: { state: State; reason: string; retryInMs: number | null };
  catalog: { tracks: CatalogSummary };
  /** Twice a second while playing, in ms. */
  latency: { now: number | null; target: number };
  /** Playback stopped for want of media. */
  stall: { count: number };
  transportchange: { transport: string; draft: string };
  /** The token ends in about a minute and there was no `getToken`. */
  tokenexpiring: { seconds: number };
  /** The browser allowed playback only without sound. */
  autoplaymuted: Record<string, never>;
  error: { code: string; fatal: boolean; transport: string; retryable: boolean; message: string };
}

export class Emitter<Events> extends EventTarget {
  on<Name extends keyof Events & string>(name: Name, listener: (detail: Events[Name]) => void): () => void {
    const wrapped = (event: globalThis.Event): void => listener((event as CustomEvent<Events[Name]>).detail);
    this.addEventListener(name, wrapped);
    return () => this.removeEventListener(name, wrapped);
  }

  protected emit<Name extends keyof Events & string>(name: Name, detail: Events[Name]): void {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
