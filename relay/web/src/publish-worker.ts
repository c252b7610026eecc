// The studio in a dedicated worker: a page that is busy or hidden does not hold the broadcast up.

import type { FromStudio, ToStudio } from './publish/protocol.js';
import { Studio } from './publish/studio.js';

const scope = globalThis as unknown as {
  postMessage(message: FromStudio): void;
  onmessage: ((event: MessageEvent<ToStudio>) => void) | null;
};

const studio = new Studio((message) => scope.postMessage(message));
scope.onmessage = (event) => studio.handle(event.data);
scope.postMessage({ kind: 'ready' });
