// Runs the unit tests: bundles each test file with its sources into a folder below node_modules, then starts Node's own
// test runner on them.

import { spawnSync } from 'node:child_process';
import { readdir, rm } from 'node:fs/promises';
import path from 'node:path';

import { build } from 'esbuild';

const root = path.join(import.meta.dirname, '..');
const out = path.join(root, 'node_modules/.tests');
const files = (await readdir(path.join(root, 'test'))).filter((file) => file.endsWith('.test.ts'));
await rm(out, { recursive: true, force: true });
await build({
  entryPoints: files.map((file) => path.join(root, 'test', file)),
  outdir: out,
  bundle: true,
  format: 'esm',
  platform: 'node',
  target: 'node20',
  outExtension: { '.js': '.mjs' },
  sourcemap: 'inline',
  loader: { '.hex': 'text' },
});
const tests = files.map((file) => path.join(out, file.replace(/\.ts$/, '.mjs')));
const { status } = spawnSync(process.execPath, ['--enable-source-maps', '--test', ...tests], { stdio: 'inherit' });
process.exit(status ?? 1);
