// The player in a real browser: a real encoder over RTMP on one side, painted pixels on the other. One node serves all
// tests of this file; each has its own input, so none sees another's broadcast.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { Browser, percentile } from './harness/browser.mjs';
import { Encoder, FFMPEGS } from './harness/encoder.mjs';
import { waitFor } from './harness/wait.mjs';
import { Weir } from './harness/weir.mjs';

let weir;
let browser;

before(async () => {
  weir = await Weir.start({ demo: true });
  browser = await Browser.start();
});

after(async () => {
  await browser?.stop();
  const { seconds } = (await weir?.stop()) ?? {};
  console.log(`weir ended ${seconds?.toFixed(2)} s after the interrupt; no secret in its log`);
});

/** Runs a story around an encoder that publishes to a fresh input, and stops the encoder whatever happens. */
async function broadcast(name, options, story) {
  const input = await weir.input(name);
  const token = await weir.token(input.id);
  const encoder = Encoder.start(input.urls.rtmp, options);
  try {
    await story({ input, token, encoder });
  } catch (error) {
    error.message += `\nencoder: ${encoder.stderr}\nweir: ${weir.logLines.slice(-3000)}`;
    throw error;
  } finally {
    await encoder.stop({ abort: true });
  }
}

for (const [name, ffmpeg] of Object.entries(FFMPEGS)) {
  test(`${name}: the picture moves and the sound is decoded`, async () => {
    await broadcast(name, { ffmpeg }, async ({ token }) => {
      const viewer = await browser.open(token.page);
      const first = await viewer.moving();
      assert.deepEqual([first.width, first.height], [640, 360]);
      await viewer.moving(first);
      await waitFor(
        'sound is decoded',
        async () => (await viewer.look()).audioBytes > first.audioBytes,
        { explain: () => viewer.account() },
      );
      await viewer.state('playing');
      await viewer.screenshot(`playing-${name.replace(' ', '-')}`);
      await viewer.close();
    });
  });
}

test('a broadcast with B-frames plays in order', async () => {
  await broadcast('b-frames', { bFrames: true, groupFrames: 60 }, async ({ token }) => {
    const viewer = await browser.open(token.page);
    await viewer.moving();
    const samples = await viewer.page.evaluate(
      () =>
        new Promise((resolve) => {
          const { video } = document.querySelector('weir-player');
          const counters = [];
          const painted = () => {
            const stamp = globalThis.readStamp(video);
            if (stamp) counters.push(stamp.counter);
            if (counters.length >= 90) resolve(counters);
            else video.requestVideoFrameCallback(painted);
          };
          video.requestVideoFrameCallback(painted);
        }),
    );
    const backwards = samples.filter((counter, index) => index > 0 && (counter - samples[index - 1] + 4096) % 4096 > 2048);
    assert.deepEqual(backwards, [], 'no frame is shown after a later one');
    await viewer.close();
  });
});

test('glass to glass is measured, and the player knows it', async (context) => {
  await broadcast('latency', {}, async ({ token }) => {
    const viewer = await browser.open(token.page);
    await viewer.moving();
    // The player settles on its target first; then ten seconds of frames.
    await viewer.glassToGlass(150);
    const samples = await viewer.glassToGlass(300);
    const seen = samples.map((sample) => sample.seen);
    const told = samples.map((sample) => sample.told).filter(Number.isFinite);
    const figures = {
      seen: [0.5, 0.99].map((share) => percentile(seen, share)),
      told: [0.5, 0.99].map((share) => Math.round(percentile(told, share))),
    };
    context.diagnostic(`glass to glass, burnt-in clock: p50 ${figures.seen[0]} ms, p99 ${figures.seen[1]} ms`);
    context.diagnostic(`glass to glass, player's number: p50 ${figures.told[0]} ms, p99 ${figures.told[1]} ms`);
    assert.ok(told.length >= samples.length / 2, 'the player reports a number while it plays');
    // How long it takes is no matter of right or wrong on a shared machine; that the player knows it is. Between picture
    // and number lie the encoder, before the capture stamp, and the painting of one frame.
    assert.ok(
      Math.abs(figures.seen[0] - figures.told[0]) < 150,
      `picture ${figures.seen[0]} ms, player ${figures.told[0]} ms`,
    );
    await viewer.screenshot('latency');
    await viewer.close();
  });
});

test('a second viewer joins in the middle of a group and starts at its boundary', async () => {
  // Groups of six seconds: a join right after the first viewer has seen some objects of one is in its middle.
  await broadcast('mid-group', { groupFrames: 180 }, async ({ token }) => {
    const first = await browser.open(token.page);
    await first.moving();
    const before = await waitFor(
      'the first viewer is well inside a group',
      async () => {
        const { video } = (await first.stats()).tracks;
        return video.lastObject > 20 && video.lastObject < 90 ? video : null;
      },
      { explain: () => first.account() },
    );
    const second = await browser.open(token.page);
    await second.moving();
    const { video } = (await second.stats()).tracks;
    assert.equal(video.firstObject, 0, 'the first object received opens a group');
    assert.ok(video.firstGroup >= before.lastGroup, 'not an older group than the one being sent');
    await first.close();
    await second.close();
  });
});

test('the picture changes its size and the viewer goes on in the same page', async () => {
  await broadcast('resize', {}, async ({ input, token, encoder }) => {
    const viewer = await browser.open(token.page);
    const before = await viewer.moving();
    assert.deepEqual([before.width, before.height], [640, 360]);
    await viewer.page.evaluate(() => (globalThis.stayed = true));
    await encoder.stop();
    const larger = Encoder.start(input.urls.rtmp, { size: '1280x720' });
    try {
      await waitFor(
        'the larger picture',
        async () => (await viewer.look())?.width === 1280,
        { explain: () => viewer.account() },
      );
      // The burnt-in clock is read at the size it was drawn in, so here pictures and time are counted.
      const first = await viewer.look();
      await waitFor(
        'the larger picture moves',
        async () => {
          const look = await viewer.look();
          return look.frames >= first.frames + 30 && look.currentTime > first.currentTime && look.error === null;
        },
        { explain: () => viewer.account() },
      );
      await viewer.state('playing');
      assert.equal(await viewer.page.evaluate(() => globalThis.stayed), true, 'the page was not loaded again');
      assert.equal((await viewer.stats()).reconnects, 0, 'the session is the same');
    } catch (error) {
      error.message += `\nsecond encoder: ${larger.stderr}`;
      throw error;
    } finally {
      await larger.stop({ abort: true });
    }
    await viewer.close();
  });
});

test('the publisher restarts and the viewers continue', async () => {
  await broadcast('restart', {}, async ({ input, token, encoder }) => {
    const viewers = [await browser.open(token.page), await browser.open(token.page)];
    const looks = [];
    for (const viewer of viewers) looks.push(await viewer.moving());
    await encoder.stop({ abort: true });
    const again = Encoder.start(input.urls.rtmp);
    const restarted = Date.now();
    try {
      for (const viewer of viewers) {
        // A frame that was drawn after the restart, in the same page.
        await waitFor(
          'the picture of the second encoder',
          async () => {
            const look = await viewer.look();
            if (!look?.stamp) return false;
            const age = (((look.now - look.stamp.clock) % 2 ** 20) + 2 ** 20) % 2 ** 20;
            return look.now - age > restarted;
          },
          { explain: () => viewer.account() },
        );
        const moving = await viewer.moving(await viewer.look());
        assert.equal(moving.error, null);
        await viewer.state('playing');
      }
    } catch (error) {
      error.message += `\nsecond encoder: ${again.stderr}`;
      throw error;
    } finally {
      await again.stop({ abort: true });
    }
    for (const viewer of viewers) await viewer.close();
  });
});

test('a token of another input, a broken one and none show "auth failed"', async () => {
  await broadcast('auth', {}, async ({ input, token }) => {
    const other = await weir.token((await weir.input('someone else')).id);
    const broken = `${token.token.slice(0, -4)}AAAA`;
    const good = await browser.open(token.page);
    await good.moving();
    for (const bad of [other.token, broken, '']) {
      const viewer = await browser.open(weir.page(input.id, bad));
      await viewer.state('auth failed');
      assert.ok(await viewer.page.getByText('Not authorised').first().isVisible(), 'the viewer is told');
      assert.equal((await viewer.look())?.frames ?? 0, 0, 'not one frame was shown');
      if (bad === broken) await viewer.screenshot('auth-failed');
      await viewer.close();
    }
    // The one with the good token was not disturbed.
    await good.moving(await good.look());
    await good.close();
  });
});

test('the start page plays the demo', async () => {
  const viewer = await browser.open(weir.http);
  const first = await waitFor(
    'the demo plays',
    async () => {
      const look = await viewer.look();
      return look?.frames > 10 && look.currentTime > 0 ? look : null;
    },
    { explain: () => viewer.account() },
  );
  await waitFor('it goes on', async () => (await viewer.look()).currentTime > first.currentTime + 1);
  await viewer.screenshot('start-page');
  await viewer.close();
});
