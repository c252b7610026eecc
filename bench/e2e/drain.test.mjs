// A node is drained while a browser watches: the picture goes on from another node, and nobody sees the change. Both nodes
// get the same encoder's stream, but each counts its groups for itself, which is the harder case for a player.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Browser } from './harness/browser.mjs';
import { Encoder } from './harness/encoder.mjs';
import { waitFor } from './harness/wait.mjs';
import { Weir } from './harness/weir.mjs';

test('a viewer of a node that is drained sees the picture go on from another one', async (context) => {
  const here = await Weir.start();
  const input = await here.input('moves');
  const token = await here.token(input.id);
  const there = await Weir.start({ like: here });
  const browser = await Browser.start();
  assert.notEqual(here.ready.cert_sha256, there.ready.cert_sha256);
  const also = input.urls.rtmp.replace(here.ready.rtmp, there.ready.rtmp);
  const encoder = Encoder.start(input.urls.rtmp, { also });
  try {
    const viewer = await browser.open(token.page);
    const first = await viewer.moving();
    await waitFor('the second node is live', () => there.broadcastState(input.id) === 'live');
    await viewer.moving(first);
    const before = await viewer.stats();
    const ordered = performance.now();
    const drained = here.drain('--new-uri', `https://${there.ready.quic}/#cert-sha256=${there.ready.cert_sha256}`, '--deadline', '20s');
    const after = await waitFor(
      'the player has moved',
      async () => {
        const stats = await viewer.stats();
        return stats.moves === 1 ? stats : null;
      },
      { explain: () => viewer.account() },
    );
    context.diagnostic(`moved ${Math.round(performance.now() - ordered)} ms after the order`);
    const look = await viewer.look();
    await waitFor(
      'three seconds more of picture',
      async () => {
        const now = await viewer.look();
        return now.stamp && now.currentTime > look.currentTime + 3 ? now : null;
      },
      { explain: () => viewer.account() },
    );
    const stats = await viewer.stats();
    assert.equal(stats.state, 'playing');
    assert.deepEqual(
      [stats.moves, stats.reconnects, stats.groupsSkipped - before.groupsSkipped, stats.rebuffers - before.rebuffers],
      [1, 0, 0, 0],
      JSON.stringify({ before, after, stats }),
    );
    assert.equal((await viewer.look()).error, null);
    // A load balancer is told, for as long as the encoder is held.
    const health = await fetch(`${here.http}/healthz`);
    assert.deepEqual([health.status, await health.text()], [503, 'draining\n']);
    await encoder.stop({ abort: true });
    const { status, stdout, stderr } = await drained;
    assert.equal(status, 0, stderr);
    const last = JSON.parse(stdout.trim().split('\n').at(-1));
    assert.deepEqual([last.state, last.closed], ['done', 0], stdout);
    await viewer.close();
  } catch (error) {
    error.message += `\nhere: ${here.logLines.slice(-2000)}\nthere: ${there.logLines.slice(-2000)}\n${encoder.stderr}`;
    throw error;
  } finally {
    await encoder.stop({ abort: true });
    await browser.stop();
    await there.stop();
    await here.stop();
  }
});
