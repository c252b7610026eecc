// The engine in a dedicated worker: decoding is fed from here, whatever the page is busy with.

import { Engine } from './viewer/engine.js';
import type { FromEngine, ToEngine } from './viewer/protocol.js';

const scope = globalThis as unknown as {
  postMessage(message: FromEngine, transfer: Transferable[]): void;
  onmessage: ((event: MessageEvent<ToEngine>) => void) | null;
};

const engine = new Engine((message, transfer = []) => scope.postMessage(message, transfer));
scope.onmessage = (event) => engine.handle(event.data);
scope.postMessage({ kind: 'ready' }, []);
