// How the page starts one of our workers and talks to it: the player's engine or the publisher's studio. Owns the wait
// for its first word and its end; knows nothing of what is said.

/** A worker that has not said anything by then will not. */
const WORKER_WITHIN_MS = 4000;

export interface WorkerHost<Order> {
  send(message: Order, transfer?: Transferable[]): void;
  stop(): void;
}

export interface WorkerTerms<Word> {
  name: string;
  listen: (message: Word) => void;
  /** What is heard in the worker's place if it fails while at work. */
  failed: (message: string) => Word;
  /** What it gets for its goodbye after `stop`. */
  goodbyeMs: number;
}

/** Null when the worker cannot be loaded: another origin, or a policy of the page against it. */
export function startWorker<Order, Word extends { kind: string }>(
  url: string,
  { name, listen, failed, goodbyeMs }: WorkerTerms<Word>,
): Promise<WorkerHost<Order | { kind: 'stop' }> | null> {
  return new Promise((resolve) => {
    let worker: Worker;
    try {
      worker = new Worker(url, { type: 'module', name });
    } catch {
      resolve(null);
      return;
    }
    const give = (host: WorkerHost<Order | { kind: 'stop' }> | null): void => {
      clearTimeout(timer);
      if (!host) worker.terminate();
      resolve(host);
    };
    const timer = setTimeout(() => give(null), WORKER_WITHIN_MS);
    worker.onerror = () => give(null);
    worker.onmessage = ({ data }: MessageEvent<Word>) => {
      if (data.kind !== 'ready') {
        listen(data);
        return;
      }
      // From now on an error is the end of the worker's task, and is told.
      worker.onerror = ({ message }) => {
        worker.terminate();
        listen(failed(message));
      };
      give({
        send: (message, transfer = []) => worker.postMessage(message, transfer),
        stop: () => {
          worker.postMessage({ kind: 'stop' });
          setTimeout(() => worker.terminate(), goodbyeMs);
        },
      });
    };
  });
}
