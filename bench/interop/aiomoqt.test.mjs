// aiomoqt publishes and subscribes through the relay, on every draft it speaks, raw QUIC and WebTransport, into a live
// input with a stream key and out of it with a token: what a stranger's program needs for that, and what it is refused.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { waitFor } from '../e2e/harness/wait.mjs';
import { Weir } from '../e2e/harness/weir.mjs';
import { keep } from './harness/outcomes.mjs';
import { aiomoqt, aiomoqtPeer, PEER, Running } from './harness/peers.mjs';

const NAME = 'aiomoqt 0.13.3';
const DRAFTS = [22, 20, 18, 16, 14];
const TRACK = 'notes/first';
const GROUPS = 3;

let weir;

before(async () => {
  weir = await Weir.start();
});

after(async () => {
  await weir?.stop();
});

/** A live input with the addresses of both sides on one transport: `moqt` (raw QUIC) or `https` (WebTransport). */
async function channel(name) {
  const input = await weir.input(name, 'fmp4');
  const { token } = await weir.token(input.id);
  const at = (scheme, path) => `${scheme}://${weir.ready.quic}${path}`;
  return {
    id: input.id,
    namespace: (await weir.namespace(input.id)).join('/'),
    token,
    publish: (scheme, key = input.stream_key) => at(scheme, `/publish/${input.id}?sk=${key}`),
    watch: (scheme, query = `?tok=${token}`) => at(scheme, `/playback/${input.id}${query}`),
  };
}

/** Publishes on one draft until stopped; resolves when the library says so. */
async function publishing(channel, draft, scheme, flow, track = TRACK) {
  const args = [PEER, 'publish', channel.publish(scheme), '--draft', draft, '--flow', flow, '--groups', 600];
  const publisher = new Running(aiomoqt('python'), [...args, '--namespace', channel.namespace, '--track', track]);
  const explain = () => ({ ...publisher, weir: weir.logLines.slice(-3000) });
  await waitFor(`aiomoqt publishes on draft ${draft}`, () => {
    if (!publisher.running) throw new Error(`the publisher ended: ${JSON.stringify(explain())}`);
    return publisher.said.some((line) => line.event === 'published');
  }, { explain });
  return publisher;
}

const subscribing = (channel, drafts, url, ...more) =>
  aiomoqtPeer('subscribe', url, ...drafts.flatMap((draft) => ['--draft', draft]), '--namespace', channel.namespace,
    '--track', TRACK, '--groups', GROUPS, '--seconds', 30, ...more);

/**
 * What one subscriber must have seen: groups in order, every byte and property as published. Its first group may have
 * begun before it came, its last one go on after it left.
 */
function assertWhole(objects, context) {
  assert.ok(objects.length > 0, context);
  for (const object of objects) assert.ok(object.same && object.properties, `${JSON.stringify(object)} ${context}`);
  const groups = [...new Set(objects.map((object) => object.group))];
  assert.deepEqual(groups, [...groups].sort((a, b) => a - b), `groups rise ${context}`);
  assert.equal(groups.length, GROUPS + 1, context);
  const last = groups.length - 1;
  for (const [at, group] of groups.entries()) {
    const numbers = objects.filter((object) => object.group === group).map((object) => object.object);
    const whole = [0, 1, 2, 3];
    const expected = at === 0 ? whole.slice(-numbers.length) : whole.slice(0, at === last ? numbers.length : 4);
    assert.deepEqual(numbers, expected, `group ${group} ${context}`);
  }
}

for (const [scheme, transport] of [['moqt', 'raw QUIC'], ['https', 'WebTransport']]) {
  for (const publisherDraft of DRAFTS) {
    test(`aiomoqt publishes on draft ${publisherDraft} over ${transport}, subscribers on every draft get it whole`, async () => {
      const live = await channel(`from-${publisherDraft}-${scheme}`);
      const publisher = await publishing(live, publisherDraft, scheme, 'namespace');
      try {
        const { status, said, stderr, of } = await subscribing(live, DRAFTS, live.watch(scheme));
        const context = () => JSON.stringify([said.filter((line) => line.event !== 'object'), stderr.slice(-2000)]);
        const whole = DRAFTS.filter((draft) => {
          const objects = of('object').filter((object) => object.draft === draft);
          assertWhole(objects, `draft ${publisherDraft} to ${draft}: ${context()}`);
          return true;
        });
        assert.equal(status, 0, context());
        keep({ peer: NAME, does: 'publishes to itself on every draft', draft: publisherDraft, transport, passed: whole.length, of: DRAFTS.length });
      } finally {
        await publisher.stop();
      }
    });
  }
}

for (const draft of DRAFTS) {
  test(`draft ${draft}: a track announced by PUBLISH alone reaches its subscriber`, async () => {
    const live = await channel(`by-publish-${draft}`);
    const publisher = await publishing(live, draft, 'moqt', 'track');
    try {
      const { status, said, stderr, of } = await subscribing(live, [draft], live.watch('moqt'));
      const context = JSON.stringify([said.filter((line) => line.event !== 'object'), stderr.slice(-2000)]);
      assert.equal(status, 0, context);
      assertWhole(of('object'), context);
      keep({ peer: NAME, does: 'publishes one track by PUBLISH', draft, transport: 'raw QUIC', passed: 1, of: 1 });
    } finally {
      await publisher.stop();
    }
  });

  test(`draft ${draft}: no key, no token and no such track are refused, while the right ones work`, async () => {
    const live = await channel(`refusals-${draft}`);
    const publisher = await publishing(live, draft, 'moqt', 'namespace');
    try {
      const wrongKey = weir.secret(`sk_live_${'a'.repeat(32)}`);
      const intruder = await aiomoqtPeer('publish', live.publish('moqt', wrongKey), '--draft', draft,
        '--namespace', live.namespace, '--track', TRACK, '--flow', 'namespace');
      assert.notEqual(intruder.status, 0, 'a wrong stream key must fail');
      assert.deepEqual(intruder.of('published'), [], JSON.stringify(intruder));

      const attempts = {
        'no token': [live.watch('moqt', '')],
        'a wrong token': [live.watch('moqt', '?tok=e30.e30.AAAA')],
        'a token in the request that is wrong': [live.watch('moqt', ''), '--token', 'e30.e30.AAAA'],
        'no such track': [live.watch('moqt'), '--track', 'notes/none'],
        'no such broadcast': [live.watch('moqt'), '--namespace', `${live.namespace}x`],
      };
      for (const [what, [url, ...more]] of Object.entries(attempts)) {
        const refused = await subscribing(live, [draft], url, ...more);
        assert.notEqual(refused.status, 0, `${what}: ${JSON.stringify(refused)}`);
        assert.deepEqual(refused.of('object'), [], what);
        assert.deepEqual(refused.of('subscribed'), [], what);
      }

      const admitted = await subscribing(live, [draft], live.watch('moqt', ''), '--token', live.token);
      assert.equal(admitted.status, 0, `the right token, in the request: ${JSON.stringify(admitted.said.at(-1))}`);
      assertWhole(admitted.of('object'), 'with the token in the request');
      keep({ peer: NAME, does: 'is refused without key, token or track', draft, transport: 'raw QUIC', passed: 7, of: 7 });
    } finally {
      await publisher.stop();
    }
  });
}
