// The console of the local operator: inputs with state and health, and the lines to publish to each. The API key lives in
// this page's memory only; a stream key is shown once, when it has just been made here.

import { type Mark, mark } from '../element/icons.js';
import { bitrate } from '../element/words.js';
import { byId, findRelay, text } from './common.js';
import { type Ingest, type Site, TOOLS, type Tool, type Urls, recipes } from './lines.js';

type Json = Record<string, unknown>;

interface Input {
  id: string;
  name: string;
  ingest: Ingest;
  state: string;
  reason: string | null;
  since: string | null;
  urls: Urls;
}

const LOOK_MS = 2000;
const CONFIRM_MS = 4000;
const STATES: Record<string, [Mark, string, string]> = {
  idle: ['ring', '', 'Idle'],
  connected: ['half', '', 'Connected'],
  live: ['full', 'live', 'Live'],
  reconnecting: ['half', 'warn', 'Reconnecting'],
  errored: ['cross', 'bad', 'Errored'],
};

let apiKey = '';
let chosen: string | null = null;
let tool: Tool = 'OBS';
/** Addresses with the key in them, of inputs whose key was just made here. */
const fresh = new Map<string, Urls>();
let drawn = '';
const site: Site = { origin: location.origin, selfSigned: false };
void findRelay().then(({ certificate }) => (site.selfSigned = certificate !== null));

byId<HTMLFormElement>('enter').addEventListener('submit', (event) => {
  event.preventDefault();
  const field = byId<HTMLInputElement>('key');
  apiKey = field.value.trim();
  field.value = '';
  void look().then((known) => {
    if (!known) return;
    byId<HTMLElement>('enter').hidden = true;
    byId<HTMLElement>('inside').hidden = false;
    setInterval(() => void look(), LOOK_MS);
  });
});

byId<HTMLFormElement>('create').addEventListener('submit', (event) => {
  event.preventDefault();
  const name = byId<HTMLInputElement>('name');
  const ingest = byId<HTMLSelectElement>('ingest').value;
  void ask('POST', '/v1/live-inputs', { name: name.value, ingest }).then((made) => {
    if (!made) return;
    name.value = '';
    take(made);
  });
});

const rotate = byId<HTMLButtonElement>('rotate');
rotate.addEventListener('click', () => {
  if (rotate.dataset['sure'] !== 'yes') {
    rotate.dataset['sure'] = 'yes';
    rotate.textContent = 'Rotate: the old key ends';
    setTimeout(calm, CONFIRM_MS);
    return;
  }
  calm();
  if (chosen) void ask('POST', `/v1/live-inputs/${chosen}/rotate-stream-key`).then((made) => made && take(made));
});

function calm(): void {
  rotate.dataset['sure'] = '';
  rotate.textContent = 'Rotate key';
}

/** An answer with a key in it: the only one there will be. */
function take(made: Json): void {
  const input = read(made);
  fresh.set(input.id, input.urls);
  chosen = input.id;
  drawn = '';
  void look();
}

async function look(): Promise<boolean> {
  const answer = await ask('GET', '/v1/live-inputs');
  if (!answer) return false;
  const list = Array.isArray(answer['data']) ? answer['data'].map((one) => read(one as Json)) : [];
  showList(list);
  const input = list.find(({ id }) => id === chosen) ?? list[0];
  byId<HTMLElement>('one').hidden = !input;
  if (input) {
    chosen = input.id;
    showPublish(input);
    showHealth(input, await ask('GET', `/v1/live-inputs/${input.id}/health`));
  }
  return true;
}

async function ask(method: string, path: string, body?: Json): Promise<Json | null> {
  const said = byId('said');
  try {
    const response = await fetch(path, {
      method,
      cache: 'no-store',
      headers: { Authorization: `Bearer ${apiKey}` },
      ...(body ? { body: JSON.stringify(body) } : {}),
    });
    const answer = (await response.json()) as Json;
    if (response.ok) {
      said.textContent = '';
      return answer;
    }
    said.textContent =
      response.status === 401
        ? 'API key refused. Copy it again.'
        : `Refused: ${text(answer['code']) ?? String(response.status)}`;
  } catch {
    said.textContent = 'The node does not answer. Trying on.';
  }
  return null;
}

function read(json: Json): Input {
  return {
    id: text(json['id']) ?? '',
    name: text(json['name']) ?? '',
    ingest: (text(json['ingest']) ?? 'rtmp') as Ingest,
    state: text(json['state']) ?? 'idle',
    reason: text(json['state_reason']),
    since: text(json['state_since']),
    urls: json['urls'] as Urls,
  };
}

function showList(list: Input[]): void {
  byId<HTMLElement>('empty').hidden = list.length > 0;
  const table = byId<HTMLTableElement>('inputs');
  table.hidden = list.length === 0;
  const rows = list.map((input) => {
    const open = el('button', { type: 'button', class: 'plain' }, input.name);
    open.setAttribute('aria-current', String(input.id === chosen));
    open.addEventListener('click', () => {
      chosen = input.id;
      drawn = '';
      void look();
    });
    const since = el('td', { class: 'number' }, input.since ? ago(input.since) : '–');
    if (input.since) since.title = input.since;
    return el('tr', {}, el('td', {}, state(input)), el('td', {}, open), el('td', {}, takes(input.ingest)), since);
  });
  // A button that has the focus keeps it.
  const focused = [...table.querySelectorAll('button')].indexOf(document.activeElement as HTMLButtonElement);
  table.tBodies[0]?.replaceChildren(...rows);
  if (focused >= 0) table.querySelectorAll('button')[focused]?.focus();
}

function state(input: Input): HTMLElement {
  const [shape, tone, word] = STATES[input.state] ?? ['ring', '', input.state];
  const node = el('span', { class: 'state' });
  node.dataset['tone'] = tone;
  node.replaceChildren(mark(shape), word);
  if (input.reason) node.title = input.reason.replaceAll('_', ' ');
  return node;
}

function takes(ingest: Ingest): string {
  return { rtmp: 'RTMP, RTMPS', srt: 'SRT', whip: 'WHIP', fmp4: 'MoQT' }[ingest] ?? ingest;
}

function showHealth(input: Input, answer: Json | null): void {
  byId('title').textContent = input.name;
  const health = input.state === 'idle' ? null : (answer?.['health'] as Json | null | undefined);
  const number = (key: string, unit: string): string => {
    const value = health?.[key];
    return typeof value === 'number' ? `${value} ${unit}` : '–';
  };
  const size = typeof health?.['width'] === 'number' ? `${String(health['width'])}×${String(health['height'])}` : '–';
  const rate = health?.['bitrate'];
  const signed = (key: string, unit: string, more: string, less: string): string => {
    const value = health?.[key];
    return typeof value === 'number' ? (value === 0 ? 'none' : `${Math.abs(value)} ${unit} ${value > 0 ? more : less}`) : '–';
  };
  const [, , word] = STATES[input.state] ?? ['', '', input.state];
  const why = input.reason && input.state !== 'live' ? `, ${input.reason.replaceAll('_', ' ')}` : '';
  const figures: [string, string][] = [
    ['Id', input.id],
    ['State', word + why],
  ];
  const media: [string, string][] = [
    ['Bitrate', typeof rate === 'number' ? bitrate(rate) : '–'],
    ['Picture', `${size} ${text(health?.['video_codec']) ?? ''}`.trim()],
    ['Sound', text(health?.['audio_codec']) ?? '–'],
    ['Pictures', number('frame_rate', 'a second')],
    ['Keyframes', number('keyframe_interval_ms', 'ms apart')],
    ['B-frames', health?.['b_frames'] === true ? 'on' : health?.['b_frames'] === false ? 'off' : '–'],
    ['Sound against picture', signed('audio_delay_ms', 'ms', 'late', 'early')],
    ['Clock drift', signed('drift_ppm', 'ppm', 'fast', 'slow')],
  ];
  if (health) figures.push(...media);
  byId('health').replaceChildren(...figures.flatMap(([name, value]) => [el('dt', {}, name), el('dd', {}, value)]));
  const warnings = Array.isArray(health?.['warnings']) ? (health['warnings'] as Json[]) : [];
  byId('warnings').replaceChildren(
    ...warnings.map((warning) => el('li', {}, text(warning['message']) ?? text(warning['code']) ?? '')),
  );
}

function showPublish(input: Input): void {
  const urls = fresh.get(input.id) ?? input.urls;
  const now = JSON.stringify([input.id, input.ingest, tool, urls, site]);
  if (now === drawn) return;
  drawn = now;
  byId('secret').textContent = fresh.has(input.id)
    ? 'The stream key below is shown this once: copy what you need before you leave this page.'
    : 'The stream key is not kept in the clear. Put yours where it says <stream key>, or rotate it to get a new one.';
  const all = recipes(input.ingest, urls, site);
  const tools = TOOLS.filter((name) => all.some((recipe) => recipe.tool === name));
  const open = tools.includes(tool) ? tool : tools[0];
  byId('tabs').replaceChildren(
    ...tools.map((name) => {
      const tab = el('button', { type: 'button', role: 'tab', 'aria-selected': String(name === open) }, name);
      tab.addEventListener('click', () => {
        tool = name;
        showPublish(input);
      });
      return tab;
    }),
  );
  byId('lines').replaceChildren(
    ...all
      .filter((recipe) => recipe.tool === open)
      .flatMap(({ title, lines }) => [el('h3', {}, title), ...lines.flatMap(({ label, text: line }) => [el('p', {}, label), ...(line ? [row(line)] : [])])]),
  );
}

/** A line and the button that copies it. */
function row(line: string): HTMLElement {
  const button = el('button', { type: 'button' }, 'Copy');
  button.addEventListener('click', () => {
    navigator.clipboard.writeText(line).then(
      () => (button.textContent = 'Copied'),
      () => (button.textContent = 'Not allowed'),
    );
    setTimeout(() => (button.textContent = 'Copy'), 1500);
  });
  return el('div', { class: 'row' }, el('code', {}, line), button);
}

function ago(time: string): string {
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(time)) / 1000));
  if (seconds < 90) return `${seconds} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  return seconds < 129_600 ? `${Math.round(seconds / 3600)} h ago` : `${Math.round(seconds / 86_400)} days ago`;
}

function el<Name extends keyof HTMLElementTagNameMap>(
  name: Name,
  attributes: Record<string, string>,
  ...children: (Node | string)[]
): HTMLElementTagNameMap[Name] {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}
