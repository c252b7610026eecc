// Other people's test clients against the relay, every case they have, in a namespace tree opened for them. Each client
// also meets a relay that opened another tree: cases that publish must fail there, or the open tree proves nothing.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { outcome, Weir } from '../e2e/harness/weir.mjs';
import { notPassed } from './expectations.mjs';
import { keep } from './harness/outcomes.mjs';
import { aiomoqt, crate } from './harness/peers.mjs';
import { readTap } from './harness/tap.mjs';

/** How a client is asked for its cases, for all of them or for one, at an address. */
const CLIENTS = [
  ...[[18, '0.2.0'], [16, '0.1.16']].flatMap(([draft, version]) =>
    [['moqt', 'raw QUIC'], ['https', 'WebTransport']].map(([scheme, transport]) => ({
      peer: `moq-test-client ${version}`,
      draft,
      scheme,
      transport,
      program: () => crate('moq-test-client', version),
      args: [],
      publishes: 'publish-namespace-only',
    })),
  ),
  ...[22, 20, 18, 16, 14].flatMap((draft) =>
    [['moqt', 'raw QUIC'], ['https', 'WebTransport']].map(([scheme, transport]) => ({
      peer: 'aiomoqt 0.13.3',
      draft,
      scheme,
      transport,
      program: () => aiomoqt('moq-interop-client'),
      args: ['--draft', draft],
      publishes: 'announce-only',
    })),
  ),
];

let open;
let elsewhere;

before(async () => {
  open = await Weir.start({ args: ['--open-interop'] });
  elsewhere = await Weir.start({ args: ['--open-interop', 'some/where/else'] });
});

after(async () => {
  await open?.stop();
  await elsewhere?.stop();
});

async function run(client, weir, ...more) {
  const relay = `${client.scheme}://${weir.ready.quic}`;
  const args = ['--relay', relay, '--tls-disable-verify', ...client.args, ...more].map(String);
  return outcome(client.program(), args, { timeout: 240_000 });
}

for (const client of CLIENTS) {
  const { peer, draft, transport } = client;
  test(`${peer} on draft ${draft} over ${transport}: every case`, async (context) => {
    const listed = await run(client, open, '--list');
    const names = listed.stdout.split('\n').map((line) => line.trim().split(/[\s:]/)[0]).filter(Boolean);
    assert.ok(names.length >= 5, `the client lists its cases: ${listed.stdout}${listed.stderr}`);

    const report = await run(client, open);
    const cases = readTap(report.stdout);
    // Cases outside the client's own default run are asked for one by one.
    for (const name of names.filter((name) => !cases.some((one) => one.name === name))) {
      cases.push(...readTap((await run(client, open, '--test', name)).stdout));
    }
    assert.deepEqual(cases.map((one) => one.name).sort(), names.sort(), 'every case was run, once');

    const known = [];
    const wrong = [];
    for (const one of cases) {
      const excuse = notPassed(peer, draft, one.name);
      if (excuse && !one.passed && one.skipped === Boolean(excuse.skipped)) known.push(`${one.name}: ${excuse.reason}`);
      else if (excuse && one.passed) wrong.push(`${one.name} passes now: take it off expectations.mjs`);
      else if (!one.passed) wrong.push(`${one.name}: ${one.skipped ? 'skipped: ' : ''}${one.message}`);
    }
    context.diagnostic(`${cases.filter((one) => one.passed).length} of ${cases.length} passed`);
    keep({ peer, does: 'its own test cases', draft, transport, passed: cases.filter((one) => one.passed).length, of: cases.length, known });
    assert.deepEqual(wrong, [], `${report.stderr.slice(-3000)}\nweir: ${open.logLines.slice(-3000)}`);
  });

  test(`${peer} on draft ${draft} over ${transport}: outside the open tree it may not publish`, async () => {
    const { stdout, stderr } = await run(client, elsewhere, '--test', client.publishes);
    const [only] = readTap(stdout);
    assert.equal(only.passed, false, `${stdout}${stderr}`);
  });
}
