// A recording by our own client that lasts until enough has come: how long that takes is the machine's affair, and how much
// a test needs is the test's.

import assert from 'node:assert/strict';

import { waitFor } from '../../e2e/harness/wait.mjs';
import { BINARY, outcome } from '../../e2e/harness/weir.mjs';
import { Running } from './peers.mjs';

/** Packets of each track in a file that may still be written; none where it cannot be read yet. */
async function counts(file) {
  const { stdout } = await outcome('ffprobe', [
    ...['-v', 'quiet', '-count_packets', '-show_entries', 'stream=index,nb_read_packets', '-of', 'csv=p=0', file],
  ]);
  return stdout.split('\n').filter(Boolean).map((line) => Number(line.split(',')[1]) || 0);
}

/** Plays into `file` until it has `tracks` tracks with more than `packets` packets each; gives what `weir play` printed. */
export async function recordUntil({ playback, file, tracks = 2, packets, explain }) {
  const player = new Running(BINARY, ['play', playback, '-o', file, '--insecure']);
  try {
    await waitFor(
      `${tracks} tracks of more than ${packets} packets are recorded`,
      async () => {
        assert.ok(player.running, `weir play ended: ${player.stderr}`);
        const counted = await counts(file);
        return counted.length === tracks && counted.every((count) => count > packets);
      },
      { everyMs: 500, explain: async () => [await counts(file), player.stderr, explain()] },
    );
    const { code } = await player.stop('SIGINT');
    assert.equal(code, 0, `weir play: ${player.stderr}`);
  } finally {
    if (player.running) await player.stop();
  }
  return player.stdout + player.stderr;
}
