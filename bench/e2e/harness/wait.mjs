// Waiting for a condition with a deadline. A `waitFor` may wait; nothing here sleeps for a fixed span or tries twice.

import { setTimeout as pause } from 'node:timers/promises';

/** Every deadline of the browser tests: far above what a loaded two-core machine needs, far below a hang. */
export const DEADLINE_MS = 45_000;

/**
 * Asks `probe` until it returns something truthy, and returns that. Fails with what `explain` says at the deadline.
 * @template T
 * @param {string} what  the condition in words, for the failure
 * @param {() => T | Promise<T>} probe
 * @param {{ deadlineMs?: number, everyMs?: number, explain?: () => unknown }} [options]
 * @returns {Promise<NonNullable<T>>}
 */
export async function waitFor(what, probe, options = {}) {
  const { deadlineMs = DEADLINE_MS, everyMs = 100, explain } = options;
  const deadline = performance.now() + deadlineMs;
  let last;
  for (;;) {
    last = await probe();
    if (last) return last;
    if (performance.now() > deadline) {
      const seen = explain ? await explain() : last;
      throw new Error(`not within ${deadlineMs / 1000} s: ${what}; last seen: ${JSON.stringify(seen)}`);
    }
    await pause(everyMs);
  }
}
