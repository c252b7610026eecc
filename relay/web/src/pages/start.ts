// The start page: the demo playing, a few figures about it, and the lines to publish something else.

import '../element.js';
import { milliseconds, bitrate } from '../element/words.js';
import { byId, findRelay, forwardKeys, getJson, showState, start, text } from './common.js';

const player = byId<HTMLElementTagNameMap['weir-player']>('player');
showState(player);
forwardKeys(player);

for (const button of document.querySelectorAll<HTMLButtonElement>('[data-copy]')) {
  button.addEventListener('click', () => {
    const line = button.previousElementSibling?.textContent ?? '';
    navigator.clipboard.writeText(line).then(
      () => (button.textContent = 'Copied'),
      () => (button.textContent = 'Not allowed'),
    );
    setTimeout(() => (button.textContent = 'Copy'), 1500);
  });
}

const demo = await getJson('/demo.json');
const host = location.hostname.includes(':') ? `[${location.hostname}]` : location.hostname;
byId('rtmp').textContent = text(demo?.['rtmp_url']) ?? `rtmp://${host}:1935/live/<input id>?sk=<stream key>`;

const playback = text(demo?.['playback_url']);
if (playback === null) {
  // Nothing to look at: what to do first comes first.
  byId<HTMLElement>('demo').hidden = false;
  byId<HTMLElement>('state').hidden = true;
  player.hidden = true;
} else {
  start(player, playback, await findRelay());
  byId<HTMLElement>('facts').hidden = false;
  setInterval(showFigures, 500);
}

function showFigures(): void {
  const { stats } = player;
  const { video } = stats.tracks;
  const figures: [string, string][] = [
    ['Broadcast', text(demo?.['input_id']) ?? 'demo'],
    ['Glass to glass', milliseconds(stats.latencyMs)],
    ['First picture after', milliseconds(stats.firstFrameMs)],
    ['Picture', stats.resolution ? `${stats.resolution.width}×${stats.resolution.height} ${video?.codec ?? ''}` : '–'],
    ['Bitrate', bitrate(stats.bitrate)],
  ];
  const list = byId('figures');
  list.replaceChildren(
    ...figures.flatMap(([name, value]) => [node('dt', name), node('dd', value)]),
  );
}

function node(name: string, content: string): HTMLElement {
  const element = document.createElement(name);
  element.textContent = content;
  return element;
}
