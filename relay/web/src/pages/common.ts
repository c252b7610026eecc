// What both pages do: ask the server where the relay is, show the player's state in the header, hand over stray keys.

import { mark, type Mark } from '../element/icons.js';
import type { WeirPlayer } from '../element.js';
import type { State } from '../viewer/viewer.js';

/** Where QUIC is, and the hash to pin there when the certificate is self-signed. */
export interface Relay {
  base: string;
  certificate: string | null;
  /** All relays that have what this node has. */
  addresses: string[];
}

export async function getJson(path: string): Promise<Record<string, unknown> | null> {
  try {
    const response = await fetch(path, { cache: 'no-store' });
    if (!response.ok) return null;
    const value: unknown = await response.json();
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}

export function text(value: unknown): string | null {
  return typeof value === 'string' && value !== '' ? value : null;
}

export function texts(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((entry) => typeof entry === 'string') : [];
}

/** Falls back to the page's own host: QUIC commonly listens on the port of HTTPS. */
export async function findRelay(): Promise<Relay> {
  const json = await getJson('/player.json');
  return {
    base: text(json?.['webtransport_url']) ?? `https://${location.host}`,
    certificate: text(json?.['cert_sha256']),
    addresses: texts(json?.['addresses']),
  };
}

/** Starts the player on a playback URL. */
export function start(player: WeirPlayer, url: string, { certificate, addresses }: Omit<Relay, 'base'>): void {
  if (addresses.length > 0) player.setAttribute('addresses', addresses.join(' '));
  if (certificate !== null) {
    player.setAttribute('certificate', certificate);
    player.setAttribute('certificate-url', '/certificate.sha256');
  }
  player.src = url;
}

export function byId<Node extends Element>(id: string): Node {
  const node = document.querySelector<Node>(`#${id}`);
  if (!node) throw new Error(`the page has no #${id}`);
  return node;
}

const WORDS: Record<State, [Mark, string, string]> = {
  idle: ['ring', '', 'Idle'],
  connecting: ['half', '', 'Connecting'],
  buffering: ['half', '', 'Buffering'],
  playing: ['full', 'live', 'Live'],
  paused: ['ring', '', 'Paused'],
  stalled: ['half', 'warn', 'Publisher paused'],
  reconnecting: ['half', 'warn', 'Reconnecting'],
  offline: ['ring', '', 'Not live'],
  ended: ['ring', '', 'Ended'],
  'auth failed': ['cross', 'bad', 'Not authorised'],
  failed: ['cross', 'bad', 'Cannot play'],
};

export function showState(player: WeirPlayer): void {
  const node = byId<HTMLElement>('state');
  const show = (): void => {
    const [shape, tone, word] = WORDS[player.viewer.state];
    if (node.textContent === word) return;
    node.dataset['tone'] = tone;
    node.replaceChildren(mark(shape), word);
  };
  player.addEventListener('statechange', show);
  show();
}

/** Keys pressed while nothing has the focus are the player's. */
export function forwardKeys(player: WeirPlayer): void {
  document.addEventListener('keydown', (event) => {
    if (event.target === document.body && !event.key.startsWith('Arrow')) player.handleKey(event);
  });
}
