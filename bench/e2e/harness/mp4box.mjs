// The judgement of mp4box.js on a file: an ISO BMFF reader that shares nothing with ours.

import assert from 'node:assert/strict';

import { createFile } from 'mp4box';

/** Tracks with their codec strings, and the number of fragments; fails when the reader reports an error. */
export function boxesOf(bytes) {
  const file = createFile();
  let movie;
  const errors = [];
  file.onError = (...error) => errors.push(error.join(' '));
  file.onReady = (info) => (movie = info);
  const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  buffer.fileStart = 0;
  file.appendBuffer(buffer, true);
  file.flush();
  assert.deepEqual(errors, []);
  assert.ok(movie, 'mp4box finds a moov');
  assert.ok(movie.isFragmented, 'the file is fragmented');
  return {
    tracks: movie.tracks.map(({ id, codec, type }) => ({ id, codec, type })),
    fragments: file.moofs?.length ?? file.boxes.filter((box) => box.type === 'moof').length,
  };
}
