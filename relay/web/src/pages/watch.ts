// The page of one broadcast: /watch/<id>?tok=…. Takes the token out of the address bar before anything else, so that it
// is neither bookmarked nor copied by accident.

import '../element.js';
import { byId, findRelay, forwardKeys, showState, start } from './common.js';

const player = byId<HTMLElementTagNameMap['weir-player']>('player');
const url = new URL(location.href);
const id = decodeURIComponent(url.pathname.split('/').filter(Boolean).at(-1) ?? '');
const latency = url.searchParams.get('latency');

/** The token of this page, kept for a reload of this tab only. */
const KEPT = `weir-token:${id}`;
const given = url.searchParams.get('tok');
if (given !== null) {
  url.searchParams.delete('tok');
  history.replaceState(history.state, '', url);
  keep(given);
}
const token = given ?? kept() ?? '';

showState(player);
forwardKeys(player);
if (latency !== null) player.setAttribute('latency', latency);
const relay = await findRelay();
const playback = new URL(`/playback/${encodeURIComponent(id)}`, relay.base);
if (token !== '') playback.searchParams.set('tok', token);
start(player, playback.href, relay);

function keep(value: string): void {
  try {
    sessionStorage.setItem(KEPT, value);
  } catch {
    // No storage: a reload then needs the link again.
  }
}

function kept(): string | null {
  try {
    return sessionStorage.getItem(KEPT);
  } catch {
    return null;
  }
}
