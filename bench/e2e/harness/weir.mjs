// One `weir up` under test, and the rest of its command line. Owns its data folder, its whole log and the list of
// secrets that must never appear in it; knows nothing of browsers.

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { cp, mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';

import { waitFor } from './wait.mjs';

const run = promisify(execFile);

/** The binary under test: `make` builds it and names it in the environment. */
export const BINARY =
  process.env.WEIR_BIN ??
  path.join(process.env.CARGO_TARGET_DIR ?? path.join(process.env.HOME, '.cache/weir/target'), 'debug/weir');

/** Every flag that names an address. */
export const LISTENERS = ['--http', '--https', '--quic', '--rtmp', '--rtmps', '--srt', '--whip'];

/** Runs a command to its end; never throws for its exit status. */
export async function outcome(program, args, options = {}) {
  try {
    const { stdout, stderr } = await run(program, args, { maxBuffer: 256 << 20, timeout: 60_000, ...options });
    return { status: 0, stdout, stderr };
  } catch (error) {
    if (error.code === 'ENOENT') throw new Error(`${program} is not installed`, { cause: error });
    return { status: error.code ?? error.signal, stdout: error.stdout, stderr: error.stderr };
  }
}

export class Weir {
  #child;
  #log = [];
  #secrets = new Set();
  #exited;

  /**
   * Starts a node on free ports and waits until it serves. With `like` it knows the inputs and keys of another node, but has
   * a certificate of its own.
   */
  static async start({ demo = false, shards = 2, args = [], like } = {}) {
    const weir = new Weir();
    weir.dataDir = await mkdtemp(path.join(tmpdir(), 'weir-e2e-'));
    if (like) {
      const kept = (name) => !/^(runtime|node\.sock|ready|tls)/.test(path.basename(name));
      await cp(like.dataDir, weir.dataDir, { recursive: true, filter: kept });
      for (const secret of like.#secrets) weir.secret(secret);
    }
    weir.readyFile = path.join(weir.dataDir, 'ready.json');
    const listen = LISTENERS.flatMap((flag) => [flag, '127.0.0.1:0']);
    weir.#child = spawn(
      BINARY,
      ['up', '--data-dir', weir.dataDir, '--ready-file', weir.readyFile, '--shards', String(shards), ...listen, ...args]
        .concat(demo ? ['--demo'] : []),
      { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, WEIR_LOG: 'debug', WEIR_LOG_FORMAT: 'json' } },
    );
    weir.#child.stdout.on('data', (bytes) => weir.#log.push({ from: 'card', text: String(bytes) }));
    weir.#child.stderr.on('data', (bytes) => weir.#log.push({ from: 'log', text: String(bytes) }));
    weir.#exited = new Promise((resolve, reject) => {
      weir.#child.on('error', (error) => reject(new Error(`${BINARY} does not start: ${error.message}`)));
      weir.#child.on('close', (code, signal) => resolve({ code, signal }));
    });
    weir.#exited.catch(() => {});
    weir.ready = await waitFor(
      'weir is ready',
      async () => {
        if (weir.#child.exitCode !== null) throw new Error(`weir ended early:\n${weir.log}`);
        try {
          return JSON.parse(await readFile(weir.readyFile, 'utf8'));
        } catch {
          return null;
        }
      },
      { explain: () => weir.log },
    );
    // The ready file holds the API key and the demo's key.
    assert.equal((await stat(weir.readyFile)).mode & 0o777, 0o600);
    weir.secret(weir.ready.api_key);
    if (weir.ready.demo) {
      weir.secret(weir.ready.demo.stream_key);
      weir.secret(new URL(weir.ready.demo.playback_url).searchParams.get('tok'));
    }
    return weir;
  }

  get pid() {
    return this.#child.pid;
  }

  /** Everything the process printed so far. */
  get log() {
    return this.#log.map((entry) => entry.text).join('');
  }

  /** What it logged: without the card that `up` prints for the operator, which shows the demo's key on purpose. */
  get logLines() {
    return this.#log.filter((entry) => entry.from === 'log').map((entry) => entry.text).join('');
  }

  /** What the node last logged about a broadcast: live, reconnecting, idle, or nothing yet. */
  broadcastState(id) {
    const lines = this.logLines.split('\n').filter((line) => line.includes('"message":"input"') && line.includes(id));
    return lines.length > 0 ? JSON.parse(lines.at(-1)).state : null;
  }

  /** Remembers a value that must never be logged. */
  secret(value) {
    assert.ok(value && value.length >= 16, `a secret is long: ${value}`);
    this.#secrets.add(value);
    return value;
  }

  /** `weir ARGS… --data-dir … --json`, beside the running node. */
  async command(...args) {
    const { status, stdout, stderr } = await outcome(BINARY, [...args, '--data-dir', this.dataDir, '--json']);
    assert.equal(status, 0, `weir ${args.join(' ')}: ${stderr}`);
    return JSON.parse(stdout);
  }

  /** Makes a live input, with `more` flags; `urls` has its addresses with the key in them, by protocol. */
  async input(name, ingest = 'rtmp', ...more) {
    const input = await this.command('input', 'create', '--name', name, '--ingest', ingest, ...more);
    this.secret(input.stream_key);
    if (input.passphrase) this.secret(input.passphrase);
    return input;
  }

  /** The fields of an input's MoQT namespace. */
  async namespace(id) {
    const { data } = await this.command('input', 'list');
    return ['stream', data.find((input) => input.id === id).org, id];
  }

  /** Mints a playback token; `playback` is the address for players, `page` the one for people. */
  async token(id, ttl = '1h') {
    const minted = await this.command('token', 'mint', id, '--ttl', ttl);
    this.secret(minted.token);
    return { token: minted.token, playback: minted.playback_url, page: minted.page_url };
  }

  /** The start page. Browsers count localhost as secure, which WebTransport needs. */
  get http() {
    return `http://localhost:${this.ready.http.split(':').at(-1)}`;
  }

  page(id, token) {
    return `${this.http}/watch/${id}?tok=${token}`;
  }

  /** `weir drain ARGS…`: sends everybody away, and returns what it said once the node has ended. */
  drain(...args) {
    return outcome(BINARY, ['drain', '--data-dir', this.dataDir, '--json', ...args]);
  }

  /** Interrupts it as Ctrl-C does; it must end by itself, soon, and have kept its secrets. */
  async stop() {
    const started = performance.now();
    this.#child.kill('SIGINT');
    const limit = setTimeout(() => this.#child.kill('SIGKILL'), 15_000);
    const { code, signal } = await this.#exited;
    clearTimeout(limit);
    const seconds = (performance.now() - started) / 1000;
    const log = this.logLines;
    await rm(this.dataDir, { recursive: true, force: true });
    assert.deepEqual({ code, signal }, { code: 0, signal: null }, `weir ended badly:\n${log.slice(-4000)}`);
    this.assertNoSecretIn(log);
    return { seconds, log };
  }

  assertNoSecretIn(text) {
    for (const secret of this.#secrets) {
      const at = text.indexOf(secret);
      assert.equal(at, -1, `a secret is in the log: …${text.slice(Math.max(0, at - 120), at)}<here>…`);
    }
  }
}
