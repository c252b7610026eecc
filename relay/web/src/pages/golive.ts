// The page that publishes from this browser: /golive, and /publish/<id> with the input filled in. It owns the camera, the
// screen and the figures; the broadcast is BroadcastPublisher's. The key lives in a field of this page and nowhere else.

import { mark, type Mark } from '../element/icons.js';
import { bitrate, milliseconds } from '../element/words.js';
import { BroadcastPublisher } from '../publish.js';
import type { PublisherState, PublisherStats, Trouble } from '../publish.js';
import { byId, findRelay } from './common.js';

const preview = byId<HTMLVideoElement>('preview');
const go = byId<HTMLButtonElement>('go');
const input = byId<HTMLInputElement>('input');
const key = byId<HTMLInputElement>('key');
const cameras = byId<HTMLSelectElement>('cameras');
const microphones = byId<HTMLSelectElement>('microphones');
const quality = byId<HTMLSelectElement>('quality');

let stream: MediaStream | null = null;
let kind: 'camera' | 'screen' = 'camera';
let publisher: BroadcastPublisher | null = null;

// A key that came in the address is taken out of it before anything else: it is neither bookmarked nor shown again.
const address = new URL(location.href);
const id = /^\/publish\/([\w-]{1,128})$/.exec(address.pathname)?.[1];
if (id) input.value = id;
const given = address.searchParams.get('sk');
if (given !== null) {
  address.searchParams.delete('sk');
  history.replaceState(history.state, '', address);
  key.value = given;
}

const relay = findRelay();
byId('camera').addEventListener('click', () => void open('camera'));
byId('screen').addEventListener('click', () => void open('screen'));
for (const select of [cameras, microphones, quality]) {
  select.addEventListener('change', () => {
    if (stream) void open(kind);
  });
}
byId<HTMLFormElement>('form').addEventListener('submit', (event) => {
  event.preventDefault();
  if (isOn()) publisher?.stop();
  else void begin();
});
navigator.mediaDevices?.addEventListener('devicechange', () => void listDevices());

function isOn(): boolean {
  return publisher !== null && ['connecting', 'live', 'reconnecting'].includes(publisher.state);
}

/** Opens camera or screen; the picture before stays when the new one is refused. */
async function open(wanted: 'camera' | 'screen'): Promise<void> {
  const [width = 1280, height = 720] = quality.value.split('x').map(Number);
  const size = { width: { ideal: width }, height: { ideal: height }, frameRate: { ideal: 30 } };
  try {
    if (!navigator.mediaDevices) throw new Error('open this page by https:// or on localhost');
    const opened =
      wanted === 'screen'
        ? await navigator.mediaDevices.getDisplayMedia({ video: size, audio: true })
        : await navigator.mediaDevices.getUserMedia({
            video: { ...size, ...(cameras.value ? { deviceId: { exact: cameras.value } } : {}) },
            audio: { sampleRate: 48_000, ...(microphones.value ? { deviceId: { exact: microphones.value } } : {}) },
          });
    close();
    stream = opened;
    kind = wanted;
  } catch (error) {
    const denied = error instanceof DOMException && error.name === 'NotAllowedError';
    const what = wanted === 'camera' ? 'camera and microphone' : 'screen';
    const why = error instanceof Error ? error.message : String(error);
    notice(denied ? `The browser did not allow the ${what}. Allow it in the address bar and try again.` : `No ${what}: ${why}.`);
    return;
  }
  notice(null);
  preview.srcObject = stream;
  byId<HTMLElement>('empty').hidden = true;
  byId('camera').toggleAttribute('data-chosen', kind === 'camera');
  byId('screen').toggleAttribute('data-chosen', kind === 'screen');
  go.disabled = false;
  meter(stream);
  await listDevices();
}

function close(): void {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

async function listDevices(): Promise<void> {
  const devices = (await navigator.mediaDevices.enumerateDevices()).filter((device) => device.deviceId !== '');
  for (const [select, type] of [[cameras, 'videoinput'], [microphones, 'audioinput']] as const) {
    const current = kind === 'camera' ? stream?.getTracks().find((track) => type.startsWith(track.kind))?.getSettings().deviceId : undefined;
    const found = devices.filter((device) => device.kind === type);
    select.replaceChildren(...found.map((device) => new Option(device.label || type, device.deviceId, false, device.deviceId === current)));
    select.disabled = found.length === 0 || kind === 'screen' || isOn();
  }
}

async function begin(): Promise<void> {
  if (!stream) return;
  const { base, certificate } = await relay;
  const [, , videoBitrate = 2_500_000] = quality.value.split('x').map(Number);
  const parameters = new URLSearchParams(location.search);
  const transport = parameters.get('transport') === 'whip' ? 'whip' : 'auto';
  publisher = new BroadcastPublisher({ relay: base, certificateSha256: certificate, videoBitrate, transport });
  publisher.on('statechange', ({ state, trouble, retryInMs }) => show(state, trouble, retryInMs));
  publisher.on('stats', figures);
  Object.assign(globalThis, { publisher });
  await publisher.publish(input.value.trim(), key.value.trim(), stream);
}

const WORDS: Record<PublisherState, [Mark, string, string]> = {
  idle: ['ring', '', 'Not live'],
  connecting: ['half', '', 'Connecting'],
  live: ['full', 'live', 'Live'],
  reconnecting: ['half', 'warn', 'Reconnecting'],
  ended: ['ring', '', 'Ended'],
  failed: ['cross', 'bad', 'Not live'],
};

function show(state: PublisherState, trouble: Trouble | null, retryInMs: number | null): void {
  const [shape, tone, word] = WORDS[state];
  const node = byId<HTMLElement>('state');
  node.dataset['tone'] = tone;
  node.replaceChildren(mark(shape), word);
  const on = ['connecting', 'live', 'reconnecting'].includes(state);
  go.textContent = on ? 'Stop' : 'Go live';
  go.classList.toggle('stop', on);
  for (const control of [input, key, cameras, microphones, quality]) control.disabled = on;
  for (const name of ['camera', 'screen']) byId<HTMLButtonElement>(name).disabled = on;
  const retry = retryInMs !== null && retryInMs > 0 ? ` Trying again in ${Math.ceil(retryInMs / 1000)} s.` : '';
  notice(trouble ? trouble.message + retry : null, state === 'failed' ? 'bad' : 'warn');
}

function notice(text: string | null, tone = 'warn'): void {
  const node = byId<HTMLElement>('notice');
  node.hidden = text === null;
  node.dataset['tone'] = tone;
  node.textContent = text ?? '';
}

function figures(stats: PublisherStats | null): void {
  const codecs = [stats?.videoCodec, stats?.audioCodec].filter(Boolean).join(', ');
  const rows: [string, string][] = [
    ['Sent', stats ? bitrate(stats.bitrate) : '–'],
    ['Allowed', stats && stats.target > 0 ? bitrate(stats.target) : '–'],
    ['Picture', stats && stats.width > 0 ? `${stats.width}×${stats.height}, ${stats.fps.toFixed(0)} fps` : '–'],
    ['Codecs', codecs || '–'],
    ['Round trip', milliseconds(stats?.rttMs ?? null)],
    ['Waiting to be sent', milliseconds(stats?.queuedMs ?? null)],
    ['Frames dropped', stats ? String(stats.framesDropped) : '–'],
    ['Reconnects', stats ? String(stats.reconnects) : '–'],
    ['Carried by', publisher && stats ? (publisher.transport === 'whip' ? 'WebRTC' : 'MoQT') : '–'],
  ];
  byId('figures').replaceChildren(...rows.flatMap(([name, value]) => [node('dt', name), node('dd', value)]));
}

function node(name: string, content: string): HTMLElement {
  const element = document.createElement(name);
  element.textContent = content;
  return element;
}

let listening: AudioContext | null = null;

/** How loud it is, some times a second; a dead microphone is seen before anybody misses it. */
function meter(source: MediaStream): void {
  const level = byId<HTMLMeterElement>('level');
  void listening?.close();
  listening = null;
  level.value = 0;
  if (source.getAudioTracks().length === 0) return;
  const context = new AudioContext();
  listening = context;
  const analyser = context.createAnalyser();
  analyser.fftSize = 1024;
  context.createMediaStreamSource(source).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  const look = (): void => {
    if (listening !== context) return;
    analyser.getFloatTimeDomainData(samples);
    const peak = samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
    // Falls slowly, so that short sounds are seen.
    level.value = Math.max(peak, level.value * 0.85);
    setTimeout(look, 66);
  };
  look();
}

// Last, when everything above has its value.
show('idle', null, null);
figures(null);
