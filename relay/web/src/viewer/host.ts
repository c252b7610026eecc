// Where the engine runs: in a worker when the browser can feed MediaSource from one, else on the page. Owns that choice
// and the fallback; both ways look the same from outside.

import { Engine } from './engine.js';
import type { FromEngine, ToEngine } from './protocol.js';
import { startWorker } from '../worker-host.js';

declare const __WEIR_SCRIPT_URL__: string;

export interface Host {
  readonly inWorker: boolean;
  send(message: ToEngine): void;
  stop(): void;
}

/** The worker beside this script. */
export function defaultWorkerUrl(): string {
  return new URL('worker.js', __WEIR_SCRIPT_URL__).href;
}

export function canUseWorker(): boolean {
  const source = globalThis.MediaSource as (typeof MediaSource & { canConstructInDedicatedWorker?: boolean }) | undefined;
  return typeof Worker === 'function' && source?.canConstructInDedicatedWorker === true;
}

export async function startHost(workerUrl: string | null, listen: (message: FromEngine) => void): Promise<Host> {
  if (workerUrl !== null && canUseWorker()) {
    const failed = (message: string): FromEngine => {
      return { kind: 'phase', phase: 'failed', reason: `The player's worker failed: ${message}`, retryInMs: null };
    };
    const worker = await startWorker<ToEngine, FromEngine>(workerUrl, { name: 'weir-player', listen, failed, goodbyeMs: 500 });
    if (worker) return { inWorker: true, send: (message) => worker.send(message), stop: () => worker.stop() };
  }
  const engine = new Engine((message) => listen(message));
  return {
    inWorker: false,
    send: (message) => engine.handle(message),
    stop: () => engine.handle({ kind: 'stop' }),
  };
}
