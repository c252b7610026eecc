// Fragmented MP4 from ffmpeg into moq-pub, through the relay into moq-sub, and out again: the same bytes, fragment by
// fragment, and a file that decodes. Both programs are Cloudflare's and speak draft 18.

import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { after, before, test } from 'node:test';

import { waitFor } from '../e2e/harness/wait.mjs';
import { outcome, Weir } from '../e2e/harness/weir.mjs';
import { keep } from './harness/outcomes.mjs';
import { crate, Running } from './harness/peers.mjs';

const PUB = '0.10.0';
const SUB = '0.5.0';
/** Fragments that must come through: some four seconds of picture and sound. */
const FRAGMENTS = 250;
const QUIET = { RUST_LOG: 'warn' };
/** Names each control message. */
const TALKING = { RUST_LOG: 'warn,moq_transport::control=debug' };

let weir;

before(async () => {
  weir = await Weir.start();
});

after(async () => {
  await weir?.stop();
});

/** Cuts a fragmented MP4 into the init (ftyp and moov), its moof and its mdat boxes, as they stand. */
function boxesOf(bytes) {
  const found = { init: [], moof: [], mdat: [] };
  for (let at = 0; at + 8 <= bytes.length; ) {
    const size = bytes.readUInt32BE(at);
    assert.ok(size >= 8, `a box of ${size} bytes at ${at}`);
    if (at + size > bytes.length) break; // Cut off by our own stop.
    const [type, box] = [bytes.toString('latin1', at + 4, at + 8), bytes.subarray(at, at + size)];
    (type === 'ftyp' || type === 'moov' ? found.init : found[type])?.push(box);
    at += size;
  }
  return { ...found, init: Buffer.concat(found.init) };
}

/** ffmpeg's fragmented MP4 in real time, copied aside on its way into `sink`. */
function filming(sink) {
  const camera = new Running('ffmpeg', [
    ...['-v', 'error', '-nostdin', '-re', '-f', 'lavfi', '-i', 'testsrc2=size=320x180:rate=25'],
    ...['-re', '-f', 'lavfi', '-i', 'sine=sample_rate=48000', '-c:v', 'libx264', '-preset', 'ultrafast'],
    ...['-tune', 'zerolatency', '-g', '25', '-pix_fmt', 'yuv420p', '-c:a', 'aac', '-f', 'mp4'],
    ...['-movflags', 'cmaf+separate_moof+delay_moov+skip_trailer+frag_every_frame', '-'],
  ]);
  camera.bytes = [];
  camera.tap((piece) => {
    camera.bytes.push(piece);
    sink.write(piece);
  });
  return camera;
}

const SCHEMES = [['https', 'WebTransport'], ['moqt', 'raw QUIC']];

for (const [scheme, transport] of SCHEMES) {
  for (const flow of ['namespace', 'publish']) {
    test(`moq-pub (${flow}) to moq-sub over ${transport}: every fragment as ffmpeg wrote it`, async () => {
      const input = await weir.input(`media-${scheme}-${flow}`, 'fmp4');
      const { token } = await weir.token(input.id);
      const name = (await weir.namespace(input.id)).join('/');
      const at = (path) => `${scheme}://${weir.ready.quic}${path}`;
      const publish = (key) => ['--tls-disable-verify', '--name', name, ...(flow === 'publish' ? ['--publish'] : []), at(`/publish/${input.id}?sk=${key}`)];
      const watch = (query, of = name) => ['--tls-disable-verify', '--name', of, at(`/playback/${input.id}${query}`)];

      const publisher = new Running(crate('moq-pub', PUB), publish(input.stream_key), { env: TALKING });
      const camera = filming(publisher.stdin);
      const explain = () => ({ pub: publisher.stderr.slice(0, 1500), sub: subscriber?.stderr.slice(-2000), weir: weir.logLines.slice(-3000) });
      let subscriber;
      try {
        // The namespace; with --publish also the catalog, the init and both tracks.
        const wanted = flow === 'publish' ? 5 : 1;
        await waitFor('moq-pub has announced what it has', () => publisher.stderr.split('REQUEST_OK').length > wanted, { explain });
        subscriber = new Running(crate('moq-sub', SUB), watch(`?tok=${token}`), { env: QUIET });
        const bytes = [];
        subscriber.tap((piece) => bytes.push(piece));
        await waitFor('the fragments come through', () => {
          for (const [who, program] of Object.entries({ 'moq-pub': publisher, 'moq-sub': subscriber })) {
            if (!program.running) throw new Error(`${who} ended: ${JSON.stringify(explain())}`);
          }
          return boxesOf(Buffer.concat(bytes)).mdat.length > FRAGMENTS;
        }, { explain });

        // moq-pub makes an object of each box, and moq-sub writes objects as they come: picture and sound interleave.
        const [got, sent] = [boxesOf(Buffer.concat(bytes)), boxesOf(Buffer.concat(camera.bytes))];
        assert.ok(got.init.equals(sent.init), 'the init segment is the one ffmpeg wrote');
        const places = new Map(sent.moof.map((box, index) => [box.toString('base64'), index]));
        const heard = got.moof.map((box) => places.get(box.toString('base64')));
        assert.ok(heard.every((place) => place !== undefined), 'no moof is altered');
        assert.equal(new Set(heard).size, heard.length, 'none comes twice');
        const bodies = new Set(got.mdat.map((box) => box.toString('base64')));
        const written = new Set(sent.mdat.map((box) => box.toString('base64')));
        assert.ok([...bodies].every((body) => written.has(body)), 'no mdat is altered');
        // Each track joins at its newest group, so the first group of one may begin before the other's.
        const span = Math.max(...heard) - Math.min(...heard) + 1;
        assert.ok(span - heard.length <= 75, `none is missing on the way: ${heard.length} of ${span}`);

        const file = path.join(weir.dataDir, `${scheme}-${flow}.mp4`);
        const whole = heard.filter((place) => bodies.has(sent.mdat[place].toString('base64')));
        assert.ok(whole.length >= heard.length - 4, 'every moof has its mdat but for those under way at the end');
        await writeFile(file, Buffer.concat([got.init, ...whole.sort((x, y) => x - y).flatMap((place) => [sent.moof[place], sent.mdat[place]])]));
        const probed = await outcome('ffprobe', ['-v', 'error', '-show_entries', 'stream=codec_name', '-of', 'csv=p=0', file]);
        assert.deepEqual([probed.stdout.trim().split('\n').sort(), probed.stderr], [['aac', 'h264'], '']);

        const stranger = new Running(crate('moq-pub', PUB), publish(weir.secret(`sk_live_${'b'.repeat(32)}`)), { env: QUIET });
        stranger.stdin.write(Buffer.concat(camera.bytes));
        assert.notEqual((await stranger.exited).code, 0, 'a wrong stream key must fail');
        for (const [what, args] of Object.entries({
          'a wrong token': watch('?tok=e30.e30.AAAA'),
          'no token': watch(''),
          'a wrong name': watch(`?tok=${token}`, `${name}x`),
        })) {
          const refused = new Running(crate('moq-sub', SUB), args, { env: QUIET });
          const { code } = await refused.exited;
          assert.notEqual(code, 0, `${what} must fail`);
          assert.equal(refused.stdout, '', what);
        }
        keep({ peer: `moq-pub ${PUB} to moq-sub ${SUB}`, does: `fragmented MP4 (${flow})`, draft: 18, transport, passed: 5, of: 5 });
      } finally {
        await camera.stop();
        await Promise.all([publisher.stop(), subscriber?.stop()]);
      }
    });
  }
}
