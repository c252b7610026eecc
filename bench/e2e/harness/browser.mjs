// Headless Chromium on the player page. Owns the launch flags and how a page is asked what it shows: painted pixels,
// the media element, the player's own account.

import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';

import { chromium } from 'playwright-core';

import { CLOCK_MODULUS, PAGE_READER } from './stamp.mjs';
import { DEADLINE_MS, waitFor } from './wait.mjs';

const EXECUTABLE = process.env.WEIR_CHROMIUM ?? '/usr/bin/chromium';
const OUT = path.join(import.meta.dirname, '../out');

const FLAGS = [
  '--headless=new',
  '--no-sandbox',
  '--disable-gpu',
  '--no-first-run',
  // Else the browser asks for updates and components over a network that tests do not have.
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--autoplay-policy=no-user-gesture-required',
];

export class Browser {
  #chromium;

  static async start(more = []) {
    const browser = new Browser();
    browser.#chromium = await chromium.launch({
      executablePath: EXECUTABLE,
      headless: false, // The flag above chooses the new headless mode; this keeps the old shell's flags away.
      args: [...FLAGS, ...more],
      ignoreDefaultArgs: ['--disable-quic'],
    });
    return browser;
  }

  /**
   * Opens a page in a profile of its own, as another viewer would; `first`, one or more functions, runs in it before its own
   * scripts.
   */
  async open(url, first = []) {
    const context = await this.#chromium.newContext({ viewport: { width: 960, height: 640 } });
    context.setDefaultTimeout(DEADLINE_MS);
    const page = await context.newPage();
    const viewer = new Viewer(page);
    await page.addInitScript(PAGE_READER);
    for (const script of [first].flat()) await page.addInitScript(script);
    await page.goto(url);
    return viewer;
  }

  async stop() {
    await this.#chromium.close();
  }
}

export class Viewer {
  #console = [];

  constructor(page) {
    this.page = page;
    page.on('console', (message) => this.#console.push(message.text()));
    page.on('pageerror', (error) => this.#console.push(`uncaught: ${error.message}`));
  }

  /** What the page complained about, for a failure's message. */
  get console() {
    return this.#console.slice(-20);
  }

  /** The player's own account: state, latencyMs, firstGroup, firstObject, groupsSkipped, … */
  stats() {
    return this.page.evaluate(() => document.querySelector('weir-player')?.stats ?? null);
  }

  /** The media element and the clock in its picture, read in one go. */
  look() {
    return this.page.evaluate(() => {
      const video = document.querySelector('weir-player')?.video ?? document.querySelector('video');
      if (!video) return null;
      const stamp = globalThis.readStamp(video);
      return {
        now: Date.now(),
        stamp,
        currentTime: video.currentTime,
        paused: video.paused,
        width: video.videoWidth,
        height: video.videoHeight,
        audioBytes: video.webkitAudioDecodedByteCount,
        frames: video.getVideoPlaybackQuality().totalVideoFrames,
        dropped: video.getVideoPlaybackQuality().droppedVideoFrames,
        error: video.error?.message ?? null,
      };
    });
  }

  /**
   * Waits until the picture shows a valid clock, and, with `since`, until picture and media clock have both moved on.
   * Returns the look. While it prepares to play, a browser paints a later picture with the media clock still at rest.
   */
  moving(since = null, options = {}) {
    return waitFor(
      since ? 'the picture moves and the media clock runs' : 'a picture shows',
      async () => {
        const look = await this.look();
        if (!look?.stamp) return null;
        const moved = !since || (look.stamp.counter !== since.stamp?.counter && look.currentTime > since.currentTime);
        return moved ? look : null;
      },
      { explain: () => this.account(), ...options },
    );
  }

  /** Waits for the player to say it is in `state`. */
  state(wanted, options = {}) {
    return waitFor(
      `the player says ${wanted}`,
      async () => {
        const stats = await this.stats();
        return stats?.state === wanted ? stats : null;
      },
      { explain: () => this.account(), ...options },
    );
  }

  /** Everything known, for a failure's message. */
  async account() {
    return { stats: await this.stats(), look: await this.look(), console: this.console };
  }

  /** Samples the burnt-in clock and the player's own number side by side, once per painted frame. */
  glassToGlass(frames) {
    return this.page.evaluate(
      ([wanted, modulus]) =>
        new Promise((resolve) => {
          const player = document.querySelector('weir-player');
          const samples = [];
          const painted = () => {
            const stamp = globalThis.readStamp(player.video);
            if (stamp) {
              const seen = (((Date.now() - stamp.clock) % modulus) + modulus) % modulus;
              samples.push({ seen, told: player.stats.latencyMs });
            }
            if (samples.length >= wanted) resolve(samples);
            else player.video.requestVideoFrameCallback(painted);
          };
          player.video.requestVideoFrameCallback(painted);
        }),
      [frames, CLOCK_MODULUS],
    );
  }

  async screenshot(name) {
    await mkdir(OUT, { recursive: true });
    await this.page.screenshot({ path: path.join(OUT, `${name}.png`), fullPage: true });
  }

  async close() {
    await this.page.context().close();
  }
}

/** Nearest-rank percentile of numbers. */
export function percentile(numbers, share) {
  assert.ok(numbers.length > 0, 'a percentile needs samples');
  const sorted = [...numbers].sort((left, right) => left - right);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
}
