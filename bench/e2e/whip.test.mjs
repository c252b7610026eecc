// WHIP with real senders: ffmpeg in both DTLS roles and Chromium with its fake camera on one side, painted pixels and
// decoded sound on the other. The page that publishes comes from another origin than the node, as in real life.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';

import { Browser } from './harness/browser.mjs';
import { Encoder, FFMPEGS } from './harness/encoder.mjs';
import { waitFor } from './harness/wait.mjs';
import { Weir } from './harness/weir.mjs';

let weir;
let browser;
let elsewhere;

before(async () => {
  weir = await Weir.start({ shards: 2 });
  browser = await Browser.start(['--use-fake-ui-for-media-stream', '--use-fake-device-for-media-stream']);
  elsewhere = createServer((_, answer) => answer.setHeader('content-type', 'text/html').end('<title>a page</title>'));
  await new Promise((listening) => elsewhere.listen(0, '127.0.0.1', listening));
});

after(async () => {
  elsewhere?.close();
  await browser?.stop();
  await weir?.stop();
});

const endpoint = (input) => `http://${weir.ready.http}/whip/${input.id}`;

/** What the node says of the sessions of an input. */
async function sessions(input) {
  const answer = await fetch(endpoint(input), { headers: { authorization: `Bearer ${weir.ready.api_key}` } });
  assert.equal(answer.status, 200);
  return (await answer.json()).sessions;
}

/** Picture and sound on the viewer's side. */
async function watched(token) {
  const viewer = await browser.open(token.page);
  const first = await viewer.moving();
  await viewer.moving(first);
  await waitFor('sound is decoded', async () => (await viewer.look()).audioBytes > first.audioBytes, {
    explain: () => viewer.account(),
  });
  return { viewer, first };
}

for (const [name, flags, role] of [
  ['passive', undefined, 'active'],
  ['active', 'dtls_active', 'passive'],
]) {
  test(`ffmpeg 9, DTLS ${name}: the picture moves and the sound is decoded`, async () => {
    const input = await weir.input(`ffmpeg-${name}`, 'whip');
    const token = await weir.token(input.id);
    const whip = { key: input.stream_key, flags };
    const encoder = Encoder.start(endpoint(input), { ffmpeg: FFMPEGS['ffmpeg 9'], whip });
    try {
      const { viewer, first } = await watched(token);
      assert.deepEqual([first.width, first.height], [640, 360]);
      const [session] = await sessions(input);
      assert.equal(session.dtls_role, role);
      assert.ok(session.stun_seen_ms <= session.dtls_done_ms && session.dtls_done_ms <= session.first_packet_ms);
      await viewer.close();
      await encoder.stop();
      await waitFor('the session is gone', async () => (await sessions(input)).length === 0);
    } catch (error) {
      error.message += `\nencoder: ${encoder.stderr}\nweir: ${weir.logLines.slice(-3000)}`;
      throw error;
    } finally {
      await encoder.stop({ abort: true });
    }
  });
}

/** A page of another origin publishes its camera; gives back what HTTP said. */
async function publish(page, url, key) {
  return page.evaluate(
    async ({ url, key }) => {
      const media = await navigator.mediaDevices.getUserMedia({ audio: true, video: { width: 640, height: 360 } });
      const peer = new RTCPeerConnection();
      for (const track of media.getTracks()) peer.addTransceiver(track, { direction: 'sendonly' });
      await peer.setLocalDescription();
      const answer = await fetch(url, {
        method: 'POST',
        headers: { 'content-type': 'application/sdp', authorization: `Bearer ${key}` },
        body: peer.localDescription.sdp,
      });
      const said = await answer.text();
      if (answer.status === 201) await peer.setRemoteDescription({ type: 'answer', sdp: said });
      globalThis.peer = peer;
      const seen = (name) => answer.headers.get(name);
      return { status: answer.status, location: seen('location'), etag: seen('etag'), said };
    },
    { url, key },
  );
}

test('Chromium publishes its camera from a page of another origin', async () => {
  const input = await weir.input('chromium', 'whip');
  const token = await weir.token(input.id);
  const camera = await browser.open(`http://localhost:${elsewhere.address().port}/`);
  try {
    const published = await publish(camera.page, endpoint(input), input.stream_key);
    assert.equal(published.status, 201, published.said);
    assert.match(published.location, /^http:\/\/127\.0\.0\.1:\d+\/whip\/lv_\w+\/[0-9a-f]{32}$/);
    assert.match(published.etag, /^"\w+"$/);
    weir.secret(published.location.split('/').at(-1));
    // The stamp is not in this picture: that it is painted and grows older is what can be seen of it.
    const viewer = await browser.open(token.page);
    const look = () =>
      viewer.page.evaluate(() => {
        const { video } = document.querySelector('weir-player');
        const quality = video?.getVideoPlaybackQuality();
        return {
          at: video?.currentTime ?? 0,
          width: video?.videoWidth ?? 0,
          frames: quality?.totalVideoFrames ?? 0,
          sound: video?.webkitAudioDecodedByteCount ?? 0,
        };
      });
    const explain = () => viewer.account();
    await waitFor('a picture', async () => (await look()).frames > 10, { explain });
    const first = await look();
    assert.ok(first.width > 0);
    await waitFor(
      'five more seconds of picture and sound',
      async () => {
        const now = await look();
        return now.at > first.at + 5 && now.frames > first.frames + 50 && now.sound > first.sound;
      },
      { explain },
    );
    const [session] = await sessions(input);
    assert.ok(session.keyframes >= 2, `a keyframe for every group: ${JSON.stringify(session)}`);
    assert.equal(session.pictures_lost, 0);

    const again = await publish(camera.page, endpoint(input), input.stream_key);
    assert.equal(again.status, 409, 'somebody is live');
    const deleted = await camera.page.evaluate(
      async (url) => (await fetch(url, { method: 'DELETE' })).status,
      published.location,
    );
    assert.equal(deleted, 200);
    assert.deepEqual(await sessions(input), []);
    await viewer.close();
  } catch (error) {
    error.message += `\nweir: ${weir.logLines.slice(-3000)}`;
    throw error;
  } finally {
    await camera.close();
  }
});
