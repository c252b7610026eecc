// The programs that are not ours: where set-up put them, and how one is run to its end or kept running. Knows nothing of
// what they say.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';

import { outcome } from '../../e2e/harness/weir.mjs';

const CACHE = path.join(process.env.XDG_CACHE_HOME ?? path.join(process.env.HOME, '.cache'), 'weir');

/** A peer that is not installed is a failure, never a skip. */
function installed(file) {
  assert.ok(existsSync(file), `${file} is missing: run \`scripts/setup interop\``);
  return file;
}

/** A program of crates.io in one version; scripts/setup names the same ones. */
export const crate = (name, version) => installed(path.join(CACHE, 'peers', `${name}-${version}`, 'bin', name));

/** A program of aiomoqt's environment. */
export const aiomoqt = (program) => installed(path.join(CACHE, 'venv-aiomoqt/bin', program));

/** Our own publisher and subscriber on top of aiomoqt. */
export const PEER = path.join(import.meta.dirname, '../peers/aiomoqt_peer.py');

/** Runs `aiomoqt_peer.py ARGS…` to its end; `said` are its lines. */
export async function aiomoqtPeer(...args) {
  const { status, stdout, stderr } = await outcome(aiomoqt('python'), [PEER, ...args.map(String)], { timeout: 90_000 });
  const said = stdout.trim().split('\n').filter(Boolean).map((line) => JSON.parse(line));
  return { status, said, stderr, of: (event) => said.filter((one) => one.event === event) };
}

/** A program that runs until it is told to stop, or ends by itself. */
export class Running {
  #child;
  #exited;
  stdout = '';
  stderr = '';

  constructor(program, args, { input = null, env = {} } = {}) {
    this.#child = spawn(program, args.map(String), {
      stdio: [input ?? 'pipe', 'pipe', 'pipe'],
      env: { ...process.env, ...env },
    });
    this.#child.stdout.on('data', (bytes) => (this.stdout += bytes));
    this.#child.stderr.on('data', (bytes) => (this.stderr += bytes));
    this.#child.stdin?.on('error', () => {}); // It ended first; its exit says why.
    this.#exited = new Promise((resolve, reject) => {
      this.#child.on('error', reject);
      this.#child.on('close', (code, signal) => resolve({ code, signal }));
    });
    this.#exited.catch(() => {});
  }

  /** Hands on what it prints, as bytes. */
  tap(listener) {
    this.#child.stdout.on('data', listener);
  }

  get running() {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  get exited() {
    return this.#exited;
  }

  get stdin() {
    return this.#child.stdin;
  }

  /** JSON lines so far, without a last one that is still being written. */
  get said() {
    return this.stdout.split('\n').slice(0, -1).filter(Boolean).map((line) => JSON.parse(line));
  }

  async stop(signal = 'SIGKILL') {
    this.#child.stdin?.end();
    this.#child.kill(signal);
    return this.#exited;
  }
}
