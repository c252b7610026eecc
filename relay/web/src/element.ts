// The custom element, defined on import.

import { WeirPlayer } from './element/player-element.js';

export { WeirPlayer };
export * from './index.js';

if (!customElements.get('weir-player')) customElements.define('weir-player', WeirPlayer);

declare global {
  interface HTMLElementTagNameMap {
    'weir-player': WeirPlayer;
  }
}
