// Prints what a viewer downloads, minified and compressed, and fails above the budget of the core.

import { readFile, readdir } from 'node:fs/promises';
import path from 'node:path';
import { gzipSync } from 'node:zlib';

/** gzip KB: the viewer without controls together with its worker. */
const CORE_MAX = 35;
const dist = path.join(import.meta.dirname, '../dist');
const kb = (bytes) => (bytes / 1024).toFixed(1).padStart(7);
const sizes = new Map();
for (const name of (await readdir(dist)).filter((file) => /\.(js|css)$/.test(file)).sort()) {
  const bytes = await readFile(path.join(dist, name));
  const packed = gzipSync(bytes, { level: 9 }).length;
  sizes.set(name, packed);
  console.log(`${name.padEnd(16)} ${kb(bytes.length)} KB ${kb(packed)} KB gz`);
}
const core = ((sizes.get('player.js') ?? 0) + (sizes.get('worker.js') ?? 0)) / 1024;
console.log(`core viewer (player.js and worker.js): ${core.toFixed(1)} KB gz, at most ${CORE_MAX}`);
if (core > CORE_MAX) process.exit(1);
