// What a publisher of draft 18 sends beside SETUP: PUBLISH, the heads of its data streams, PUBLISH_DONE. Owns the bytes;
// streams and their order are publish/uplink.ts's. Section numbers are those of draft-ietf-moq-transport-18.

import { Builder } from './cursor.js';

const PUBLISH = 0x1d;
const PUBLISH_DONE = 0x0b;
const TRACK_ENDED = 0x2;
/** Subgroup 0, priority named, holds the group's end, starts with the group's first object (section 11.4.2). */
const SUBGROUP = 0x10 | 0x08 | 0x40;

function frame(kind: number, body: Builder): Uint8Array<ArrayBuffer> {
  const bytes = body.done();
  return new Builder().int(kind).byte(bytes.length >> 8).byte(bytes.length & 0xff).raw(bytes).done();
}

export interface PublishOptions {
  request: number;
  namespace: readonly string[];
  track: string;
  alias: number;
}

/** PUBLISH (section 10.10) without parameters or properties: objects flow at once. */
export function encodePublish({ request, namespace, track, alias }: PublishOptions): Uint8Array<ArrayBuffer> {
  return frame(PUBLISH, new Builder().int(request).namespace(namespace).text(track).int(alias).int(0));
}

/** PUBLISH_DONE: the track is over, after so many streams. */
export function encodePublishDone(streams: number): Uint8Array<ArrayBuffer> {
  return frame(PUBLISH_DONE, new Builder().int(TRACK_ENDED).int(streams).text(''));
}

export function encodeGroupHead(alias: number, group: number, priority: number): Uint8Array<ArrayBuffer> {
  return new Builder().int(SUBGROUP).int(alias).int(group).byte(priority).done();
}

/** The head of an object behind the one before it on its stream; objects are contiguous from 0. */
export function encodeObjectHead(length: number): Uint8Array<ArrayBuffer> {
  return new Builder().int(0).int(length).done();
}
