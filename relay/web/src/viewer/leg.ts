// One connection to a relay and what was asked for over it. Owns request numbers, which mean nothing elsewhere, and how far
// this connection has caught up with what is being shown; lanes outlive it.

import type { Event, Session } from '../moqt/session.js';
import type { Kind } from './catalog.js';
import { Connection, type Link } from './connection.js';
import { PRIORITY } from './lane.js';
import type { EngineOptions } from './protocol.js';

const CATALOG = '.catalog';

/** What was asked for one track. */
export interface Asked {
  subscription: number | null;
  fetch: number | null;
  /** When to ask again after a refusal. */
  retryAt: number | null;
  /** The group from which on this connection brings everything, once known. */
  from: number | null;
  /** The joining FETCH is over. */
  fetched: boolean;
  /** A live object has come: nothing lies between FETCH and stream. */
  live: boolean;
}

/** Opens a connection. */
export type Connect = (options: EngineOptions, onEvent: (event: Event) => void) => Link;

export class Leg {
  readonly connection: Link;
  readonly started = Date.now();
  catalogSubscription: number | null = null;
  catalogFetch: number | null = null;
  catalogAt = { group: -1, object: -1 };
  /** The last catalog that came before this connection was the current one. */
  catalogHeld: Event | null = null;
  askAgainAt: number | null = null;
  status: { request: number; sent: number } | null = null;
  /** Where the relay sent us. */
  goaway: { uri: string; timeoutMs: number } | null = null;
  readonly tracks = new Map<Kind, Asked>();

  constructor(
    readonly options: EngineOptions,
    onEvent: (leg: Leg, event: Event) => void,
    connect: Connect = dial,
  ) {
    this.connection = connect(options, (event) => onEvent(this, event));
  }

  get #session(): Session {
    return this.connection.session;
  }

  /** Asks for the catalog, from its newest copy on. */
  askForCatalog(): void {
    this.askAgainAt = null;
    this.catalogSubscription = this.#session.subscribe(this.options.source.namespace, CATALOG, PRIORITY.catalog);
    this.catalogFetch = this.#session.fetchJoining(this.catalogSubscription, 0, PRIORITY.catalog);
    this.connection.pump();
  }

  /** The broadcast is not there: asks again at `at`. */
  askLater(at: number): void {
    this.catalogSubscription = null;
    this.catalogFetch = null;
    this.catalogAt = { group: -1, object: -1 };
    this.askAgainAt = at;
  }

  /** Asks for a track, from the start of its newest group on. */
  subscribe(kind: Kind, name: string): void {
    const subscription = this.#session.subscribe(this.options.source.namespace, name, PRIORITY[kind]);
    const fetch = this.#session.fetchJoining(subscription, 0, PRIORITY[kind]);
    this.tracks.set(kind, { subscription, fetch, retryAt: null, from: null, fetched: false, live: false });
    this.connection.pump();
  }

  /** Takes back what was asked for a track. */
  cancel(kind: Kind): void {
    const asked = this.tracks.get(kind);
    if (asked && asked.subscription !== null) this.#session.cancel(asked.subscription);
    if (asked && asked.fetch !== null) this.#session.cancel(asked.fetch);
    this.tracks.delete(kind);
  }

  /** Whose event this is. */
  kindOf(request: number): Kind | null {
    for (const [kind, { subscription, fetch }] of this.tracks) {
      if (request === subscription || request === fetch) return kind;
    }
    return null;
  }

  isCatalog(request: number): boolean {
    return request === this.catalogSubscription || request === this.catalogFetch;
  }

  /** Asks something that the relay answers at once. */
  probe(now: number): void {
    const request = this.#session.trackStatus(this.options.source.namespace, CATALOG);
    this.status = { request, sent: now };
    this.connection.pump();
  }

  renewToken(token: string): void {
    if (this.catalogSubscription === null) return;
    this.#session.renewToken(this.catalogSubscription, token);
    this.connection.pump();
  }

  /** Notes what an event says about how far this connection has come with a track. */
  follow(asked: Asked, event: Event): void {
    switch (event.kind) {
      case 'subscribed':
        if (event.request === asked.subscription && event.largest) asked.from = event.largest.group;
        break;
      case 'object':
        if (event.request !== asked.subscription) break;
        asked.live = true;
        asked.from ??= event.object === 0 ? event.group : event.group + 1;
        break;
      case 'fetch-end':
        asked.fetch = null;
        asked.fetched = true;
        break;
      case 'refused':
        if (event.request !== asked.fetch) break;
        // Without it, what is whole begins with the next group.
        asked.fetch = null;
        asked.fetched = true;
        if (asked.from !== null) asked.from += 1;
        break;
      default:
        break;
    }
  }

  /** Whether this connection brings all of a track from `group` on, which is the one being shown. */
  hasCaughtUp(kind: Kind, group: number | null): boolean {
    const asked = this.tracks.get(kind);
    if (!asked?.live || !asked.fetched || asked.from === null) return false;
    return group === null || group >= asked.from;
  }
}

function dial(options: EngineOptions, onEvent: (event: Event) => void): Link {
  const hash = options.certificateSha256 ? hexBytes(options.certificateSha256) : null;
  return new Connection(options.source.url, hash, onEvent);
}

function hexBytes(hex: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}
