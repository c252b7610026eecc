// A clock that survives a video codec: two rows of black and white blocks at the top of the picture, 40 bits of wall
// clock, frame counter and check sum. Owns the code on both sides; the encoder draws it, the browser reads it back.

export const WIDTH = 640;
export const HEIGHT = 360;
/** Blocks of 32 pixels: two macroblocks wide, so that the strongest quantizer leaves their centres alone. */
const BLOCK = 32;
const COLUMNS = WIDTH / BLOCK;
const CLOCK_BITS = 20; // Milliseconds modulo 2^20: wraps after 17 minutes, longer than any test.
const COUNTER_BITS = 12; // Frames modulo 4096: 136 s at 30 frames a second.

export const CLOCK_MODULUS = 2 ** CLOCK_BITS;
export const COUNTER_MODULUS = 2 ** COUNTER_BITS;

function checksum(clock, counter) {
  const sum = (clock & 255) + ((clock >> 8) & 255) * 3 + (clock >> 16) * 5 + (counter & 255) * 7 + (counter >> 8) * 11;
  // The constant keeps an all black picture from being a valid stamp.
  return (sum + 90) & 255;
}

/** Draws one frame as planar YUV 4:2:0 into `frame`. */
export function draw(frame, wallMs, counter) {
  const clock = wallMs % CLOCK_MODULUS;
  const count = counter % COUNTER_MODULUS;
  const bits = [];
  for (let bit = CLOCK_BITS - 1; bit >= 0; bit -= 1) bits.push((clock >> bit) & 1);
  for (let bit = COUNTER_BITS - 1; bit >= 0; bit -= 1) bits.push((count >> bit) & 1);
  for (let bit = 7; bit >= 0; bit -= 1) bits.push((checksum(clock, count) >> bit) & 1);
  const rows = bits.length / COLUMNS;
  for (let row = 0; row < rows; row += 1) {
    const first = row * BLOCK * WIDTH;
    for (let column = 0; column < COLUMNS; column += 1) {
      const luma = bits[row * COLUMNS + column] ? 235 : 16;
      frame.fill(luma, first + column * BLOCK, first + (column + 1) * BLOCK);
    }
    for (let line = 1; line < BLOCK; line += 1) {
      frame.copyWithin(first + line * WIDTH, first, first + WIDTH);
    }
  }
  // Below the code a ramp moves by four pixels a frame, so that the encoder has something to do.
  const ramp = rows * BLOCK * WIDTH;
  for (let x = 0; x < WIDTH; x += 1) frame[ramp + x] = 40 + (((x + counter * 4) % WIDTH) * 160) / WIDTH;
  for (let y = rows * BLOCK + 1; y < HEIGHT; y += 1) frame.copyWithin(y * WIDTH, ramp, ramp + WIDTH);
  frame.fill(128, WIDTH * HEIGHT);
}

/** Bytes of one frame. */
export const FRAME_BYTES = (WIDTH * HEIGHT * 3) / 2;

/**
 * Reads the code from a luma sampler, `sample(x, y)` in 0..255. Null when there is no valid code: another picture, or
 * one that is not decoded yet.
 */
export function read(sample) {
  const bits = [];
  for (let row = 0; row < 2; row += 1) {
    for (let column = 0; column < COLUMNS; column += 1) {
      const luma = sample(column * BLOCK + BLOCK / 2, row * BLOCK + BLOCK / 2);
      if (luma > 90 && luma < 165) return null;
      bits.push(luma >= 165 ? 1 : 0);
    }
  }
  const number = (from, count) => bits.slice(from, from + count).reduce((value, bit) => value * 2 + bit, 0);
  const clock = number(0, CLOCK_BITS);
  const counter = number(CLOCK_BITS, COUNTER_BITS);
  if (number(CLOCK_BITS + COUNTER_BITS, 8) !== checksum(clock, counter)) return null;
  return { clock, counter };
}

/** The same reader as source text for a page: defines `readStamp(video)` there. */
export const PAGE_READER = `
  const WIDTH = ${WIDTH}, BLOCK = ${BLOCK}, COLUMNS = ${COLUMNS};
  const CLOCK_BITS = ${CLOCK_BITS}, COUNTER_BITS = ${COUNTER_BITS};
  ${checksum}
  ${read}
  const stampCanvas = document.createElement('canvas');
  stampCanvas.width = ${WIDTH};
  stampCanvas.height = 2 * BLOCK;
  const stampContext = stampCanvas.getContext('2d', { willReadFrequently: true });
  globalThis.readStamp = (video) => {
    if (video.videoWidth !== ${WIDTH}) return null;
    stampContext.drawImage(video, 0, 0);
    const { data } = stampContext.getImageData(0, 0, ${WIDTH}, 2 * BLOCK);
    return read((x, y) => data[(y * ${WIDTH} + x) * 4 + 1]);
  };
`;
