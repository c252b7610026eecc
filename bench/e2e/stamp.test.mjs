// The burnt-in clock is read back as it was drawn, and nothing else is taken for it.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { draw, FRAME_BYTES, read, WIDTH } from './harness/stamp.mjs';

const sampler = (frame) => (x, y) => frame[y * WIDTH + x];

test('a drawn clock is read back', () => {
  const frame = Buffer.alloc(FRAME_BYTES);
  for (const [wall, counter] of [[0, 0], [1_795_226_400_123, 4095], [2 ** 20 - 1, 1], [777_777, 2048]]) {
    draw(frame, wall, counter);
    assert.deepEqual(read(sampler(frame)), { clock: wall % 2 ** 20, counter: counter % 4096 });
  }
});

test('a black, a white and a grey picture carry no clock', () => {
  for (const luma of [0, 16, 128, 255]) assert.equal(read(() => luma), null);
});

test('one flipped block is noticed', () => {
  const frame = Buffer.alloc(FRAME_BYTES);
  draw(frame, 123_456, 99);
  for (let column = 0; column < 20; column += 1) {
    for (const row of [0, 1]) {
      const flipped = (x, y) => {
        const luma = frame[y * WIDTH + x];
        const here = Math.floor(x / 32) === column && Math.floor(y / 32) === row;
        return here ? 251 - luma : luma;
      };
      assert.equal(read(flipped), null);
    }
  }
});
