// Where a relay sends its viewers with GOAWAY, and how often a viewer follows. Owns the rules for such an address and how the
// certificate behind it is learnt; opens no session.

import type { EngineOptions } from './protocol.js';

/** Moves begun within a minute; past it a viewer stays, so that relays which send it to each other do not keep it busy. */
export const MOVES_PER_MINUTE_MAX = 6;
const MINUTE_MS = 60_000;
/** How long the new host may take to tell its certificate. */
const CERTIFICATE_WITHIN_MS = 1500;
/** Longest spread of a crowd that is sent away at one moment, and its share of the time it was given. */
const SPREAD_MAX_MS = 1000;
const SPREAD_SHARE = 0.1;
/** How long the new connection may take to catch up: a group of 10 s, and a handshake. */
const PATIENCE_MS = 15_000;
/** Group numbers further apart than this are not of one count: two minutes of groups of 2 s. */
const GROUPS_APART_MAX = 64;

export interface Destination {
  url: string;
  /** `https://host:port` */
  origin: string;
  /** From the fragment `#cert-sha256=…`, lower-case hex. */
  certificateSha256: string | null;
}

/**
 * The same broadcast at the address of a GOAWAY; an empty one is the same address. Host and port are taken from it, and a
 * certificate's fingerprint; path and token stay ours. It is the relay's word, over a connection whose certificate was
 * checked, and is worth as much as the relay. Null when it cannot be used.
 */
export function destinationOf(current: string, uri: string): Destination | null {
  const url = new URL(current);
  let certificateSha256: string | null = null;
  if (uri !== '') {
    let to: URL;
    try {
      to = new URL(uri.replace(/^moqt?:/, 'https:'));
    } catch {
      return null;
    }
    if (to.protocol !== 'https:' || to.hostname === '') return null;
    url.hostname = to.hostname;
    // An empty port is the default one, not the one there was.
    url.port = to.port;
    certificateSha256 = /^#cert-sha256=([0-9a-f]{64})$/i.exec(to.hash)?.[1]?.toLowerCase() ?? null;
  }
  return { url: url.href, origin: url.origin, certificateSha256 };
}

/** The options for a connection there. A pinned certificate is asked for by HTTPS where the relay did not name it. */
export async function optionsFor(
  options: EngineOptions,
  to: Destination,
  ask: (url: string) => Promise<string | null> = askCertificate,
): Promise<EngineOptions> {
  const source = { ...options.source, url: to.url };
  const same = new URL(options.source.url).origin === to.origin;
  if (options.certificateSha256 === null && to.certificateSha256 === null) return { ...options, source, certificateUrl: null };
  const certificateUrl = same ? options.certificateUrl : `${to.origin}/certificate.sha256`;
  let certificateSha256 = to.certificateSha256;
  if (certificateSha256 === null && certificateUrl !== null) certificateSha256 = await ask(certificateUrl);
  // Nodes of one operator may share a certificate.
  return { ...options, source, certificateUrl, certificateSha256: certificateSha256 ?? options.certificateSha256 };
}

/** The fingerprint a host tells, or null. */
export async function askCertificate(url: string): Promise<string | null> {
  try {
    const response = await fetch(url, { cache: 'no-store', signal: AbortSignal.timeout(CERTIFICATE_WITHIN_MS) });
    const text = (await response.text()).trim().toLowerCase();
    return response.ok && /^[0-9a-f]{64}$/.test(text) ? text : null;
  } catch {
    return null;
  }
}

/** Counts moves. */
export class MoveLimit {
  #begun: number[] = [];

  allow(now: number): boolean {
    this.#begun = this.#begun.filter((at) => now - at < MINUTE_MS);
    if (this.#begun.length >= MOVES_PER_MINUTE_MAX) return false;
    this.#begun.push(now);
    return true;
  }
}

/** How long to wait before dialling, so that not everybody does at one moment. */
export function spread(timeoutMs: number, chance: number): number {
  return chance * Math.min(SPREAD_MAX_MS, timeoutMs > 0 ? timeoutMs * SPREAD_SHARE : SPREAD_MAX_MS);
}

/** How long the new connection has before the change is made as it stands. */
export function patience(timeoutMs: number): number {
  return timeoutMs > 0 ? Math.min(timeoutMs * 0.75, PATIENCE_MS) : PATIENCE_MS;
}

/** Whether two groups are of different counts. */
export function apart(left: number, right: number): boolean {
  return Math.abs(left - right) > GROUPS_APART_MAX;
}
