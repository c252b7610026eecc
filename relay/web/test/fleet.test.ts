// The addresses of a broadcast and the silence of a relay, without a network and without waiting.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { ADDRESSES_MAX, Fleet, Silence, type Verdict } from '../src/viewer/fleet.js';

/** Looks ten times a second from 0 on; the verdicts as runs, such as `wait 2`. */
function looks(silence: Silence, from: number, to: number, at: (now: number) => [number, boolean, boolean], rtt = 20): string[] {
  const runs: [Verdict, number][] = [];
  for (let now = from; now <= to; now += 100) {
    const verdict = silence.look(now, ...at(now), rtt);
    const last = runs.at(-1);
    if (last?.[0] === verdict) last[1] += 1;
    else runs.push([verdict, 1]);
  }
  return runs.map(([verdict, count]) => `${verdict} ${count}`);
}

test('a relay that answers nothing is silent after 600 ms, and its own pace is no silence', () => {
  const silence = new Silence(0);
  assert.deepEqual(looks(silence, 100, 1000, (now) => [now, false, true]), ['heard 10']);
  const asked = (now: number): [number, boolean, boolean] => [1000, now > 1300, true];
  assert.deepEqual(looks(silence, 1100, 1900, asked), ['wait 2', 'ask 1', 'wait 3', 'silent 3']);
});

test('a long way is given the time of its round trips', () => {
  const silence = new Silence(0);
  silence.look(0, 1, false, true, 400);
  assert.deepEqual(looks(silence, 100, 1600, (now) => [1, now > 300, true], 400), ['wait 2', 'ask 1', 'wait 11', 'silent 2']);
});

test('a publisher that sends nothing is asked after less and less often, while the relay answers', () => {
  const silence = new Silence(0);
  const asks: number[] = [];
  let heardAt = 0;
  for (let now = 100; now <= 10_000; now += 100) {
    const verdict = silence.look(now, heardAt, false, false, 20);
    assert.notEqual(verdict, 'silent');
    if (verdict !== 'ask') continue;
    asks.push(now);
    heardAt = now + 20;
  }
  assert.ok(asks.length <= 11, `${asks.length} questions in ten seconds`);
});

test('a page that was not given time for a while has missed nothing', () => {
  const silence = new Silence(0);
  silence.look(0, 1, false, true, 20);
  assert.equal(silence.look(60_000, 1, true, true, 20), 'wait');
});

test('a thousand viewers share the other addresses, each in an order of its own', () => {
  let seed = 1;
  const chance = (): number => (seed = (seed * 48271) % 2147483647) / 2147483647;
  const first = new Map<string, number>();
  for (let viewer = 0; viewer < 1000; viewer += 1) {
    const fleet = new Fleet(['https://a/playback/x?tok=t', 'https://b', 'moqt://c', 'https://d:1', 'https://a'], chance);
    const order = [fleet.next(), fleet.next(), fleet.next(), fleet.next()];
    assert.equal(new Set(order).size, 4);
    assert.equal(order[3], 'https://a/playback/x?tok=t', 'the first again, when nobody else was there');
    first.set(String(order[0]), (first.get(String(order[0])) ?? 0) + 1);
  }
  assert.deepEqual([...first.keys()].sort(), ['https://b', 'https://d:1', 'moqt://c']);
  for (const [address, count] of first) assert.ok(count > 250 && count < 420, `${count} at ${address}`);
});

test('addresses that are none are left out, and so is what exceeds the limit', () => {
  assert.equal(new Fleet(['https://a', 'https://a/x', 'http://b', 'nonsense', 'ftp://c']).hasOthers, false);
  assert.equal(new Fleet([]).next(), null);
  const many = new Fleet(Array.from({ length: 30 }, (_, at) => `https://h${at}`));
  assert.equal(many.others, ADDRESSES_MAX - 1);
  many.moved('https://h3/playback/x');
  assert.notEqual(many.next(), 'https://h3');
});
