// Where the engine runs: in a worker when the browser can feed MediaSource from one, else on the page. Owns that choice
// and the fallback; both ways look the same from outside.

import { Engine } from './engine.js';
import type { FromEngine, ToEngine } from './protocol.js';

declare const __WEIR_SCRIPT_URL__: string;

/** A worker that has not said anything by then will not. */
const WORKER_WITHIN_MS = 4000;

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
    const worker = await startWorker(workerUrl, listen);
    if (worker) return worker;
  }
  const engine = new Engine((message) => listen(message));
  return {
    inWorker: false,
    send: (message) => engine.handle(message),
    stop: () => engine.handle({ kind: 'stop' }),
  };
}

/** Null when the worker cannot be loaded: another origin, or a policy of the page against it. */
function startWorker(url: string, listen: (message: FromEngine) => void): Promise<Host | null> {
  return new Promise((resolve) => {
    let worker: Worker;
    try {
      worker = new Worker(url, { type: 'module', name: 'weir-player' });
    } catch {
      resolve(null);
      return;
    }
    const give = (host: Host | null): void => {
      clearTimeout(timer);
      if (!host) worker.terminate();
      resolve(host);
    };
    const timer = setTimeout(() => give(null), WORKER_WITHIN_MS);
    worker.onerror = () => give(null);
    worker.onmessage = ({ data }: MessageEvent<FromEngine>) => {
      if (data.kind !== 'ready') {
        listen(data);
        return;
      }
      // From now on an error is the engine's end, and is told.
      worker.onerror = ({ message }) => {
        worker.terminate();
        listen({ kind: 'phase', phase: 'failed', reason: `The player's worker failed: ${message}`, retryInMs: null });
      };
      give({
        inWorker: true,
        send: (message) => worker.postMessage(message),
        stop: () => {
          worker.postMessage({ kind: 'stop' } satisfies ToEngine);
          // Time for the session's close to leave.
          setTimeout(() => worker.terminate(), 500);
        },
      });
    };
  });
}
