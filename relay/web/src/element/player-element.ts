// <weir-player>: a video element with Weir's controls around it, in a shadow tree. Owns what is shown, when controls hide
// and what keys do; watching itself is BroadcastViewer's.

import { BroadcastViewer, type ViewerStats } from '../viewer/viewer.js';
import { type IconName, icon, mark, sparkline } from './icons.js';
import playerCss from './player.css';
import tokensCss from './tokens.css';
import { milliseconds, rows, sentence } from './words.js';

/** Controls leave the picture alone after this. */
const HIDE_AFTER_MS = 2500;
/** A state that passes quicker than this is not worth a sentence. */
const SENTENCE_AFTER_MS = 400;
/** Further behind the newest media than the buffer wants, by this much, is "behind". */
const BEHIND_MS = 800;
const VOLUME_STEP = 0.1;

const sheet = new CSSStyleSheet();
sheet.replaceSync(`${tokensCss}\n${playerCss}`);

function make<Name extends keyof HTMLElementTagNameMap>(
  name: Name,
  attributes: Record<string, string> = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[Name] {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function control(name: IconName, label: string, key: string): HTMLButtonElement {
  const title = key === '' ? label : `${label} (${key})`;
  return make('button', { type: 'button', 'aria-label': label, title }, icon(name));
}

export class WeirPlayer extends HTMLElement {
  static readonly observedAttributes = ['src', 'latency', 'controls', 'stats', 'muted'];

  /** The real element: picture in picture, captions and media sessions work on it. */
  readonly video = make('video', { part: 'video' });
  #viewer = new BroadcastViewer();
  #frame = make('div', { class: 'frame', tabindex: '0', role: 'group', 'aria-label': 'Live player' });
  #message = make('div', { class: 'message', hidden: '' });
  #announcer = make('div', { class: 'unseen', role: 'status', 'aria-live': 'polite' });
  #start = make('button', { type: 'button', class: 'primary start', hidden: '' }, icon('play'), 'Play');
  #sound = make('button', { type: 'button', class: 'primary sound', hidden: '' }, icon('muted'), 'Tap for sound');
  #bar = make('div', { class: 'bar on-picture', role: 'toolbar', 'aria-label': 'Playback', hidden: '' });
  #panel = make('section', { class: 'stats', 'aria-label': 'Playback statistics', hidden: '' });
  #playButton = control('pause', 'Pause', 'space');
  #liveButton = make('button', { type: 'button', class: 'live', title: 'Jump to live (l)' });
  #muteButton = control('sound', 'Mute', 'm');
  #volume = make('input', { type: 'range', min: '0', max: '1', step: '0.05', 'aria-label': 'Volume' });
  #statsButton = control('stats', 'Statistics', 'i');
  #pipButton = control('pip', 'Picture in picture', 'p');
  #fullButton = control('fullscreen', 'Full screen', 'f');
  #hideTimer: ReturnType<typeof setTimeout> | undefined;
  #refreshTimer: ReturnType<typeof setInterval> | undefined;
  #stateSince = 0;
  #retryAt: number | null = null;
  #asked = false;
  #soundWanted = false;
  #playing: string | null = null;

  constructor() {
    super();
    const root = this.attachShadow({ mode: 'open' });
    root.adoptedStyleSheets = [sheet];
    const space = make('span', { class: 'space' });
    this.#bar.append(this.#playButton, this.#liveButton, space, this.#muteButton, this.#volume);
    this.#bar.append(this.#statsButton, this.#pipButton, this.#fullButton);
    this.#frame.append(this.video, this.#message, this.#start, this.#sound, this.#bar, this.#panel, this.#announcer);
    root.append(this.#frame);
    this.video.playsInline = true;
    this.#listen();
  }

  /** What is watched and how it goes; see `ViewerStats`. */
  get stats(): ViewerStats {
    return this.#viewer.stats;
  }

  /** The viewer inside, for its events and its token renewal. */
  get viewer(): BroadcastViewer {
    return this.#viewer;
  }

  /**
   * A new token for what is being watched, as an answer to `tokenexpiring`: nothing is cut. A method and no attribute, so
   * that the token does not stand in the document.
   */
  renewToken(token: string): void {
    this.#viewer.renew(token);
  }

  get src(): string {
    return this.getAttribute('src') ?? '';
  }

  set src(url: string) {
    this.setAttribute('src', url);
  }

  get latency(): number {
    return this.#viewer.latency;
  }

  set latency(ms: number) {
    this.setAttribute('latency', String(ms));
  }

  get muted(): boolean {
    return this.video.muted;
  }

  set muted(muted: boolean) {
    this.video.muted = muted;
  }

  connectedCallback(): void {
    this.#refreshTimer = setInterval(() => this.#refresh(), 500);
    if (this.hasAttribute('muted')) this.video.muted = true;
    // A page that sets attributes one after the other has set them all by then.
    queueMicrotask(() => this.#load());
    this.#refresh();
    this.#wake();
  }

  disconnectedCallback(): void {
    clearInterval(this.#refreshTimer);
    clearTimeout(this.#hideTimer);
    this.#viewer.stop();
    this.#viewer.detach();
    this.#playing = null;
  }

  attributeChangedCallback(name: string, _before: string | null, value: string | null): void {
    if (!this.isConnected) return;
    if (name === 'src') queueMicrotask(() => this.#load());
    if (name === 'latency' && value !== null) this.#viewer.latency = Number(value);
    if (name === 'muted') this.video.muted = value !== null;
    this.#refresh();
  }

  /** Stops and starts again, as after an error that needed a person. */
  reload(): void {
    this.#playing = null;
    this.#load();
  }

  pause(): void {
    this.#viewer.pause();
  }

  play(): void {
    if (this.#playing === null) {
      this.#asked = true;
      this.#load();
    } else {
      this.#viewer.resume();
    }
  }

  goLive(): void {
    this.#viewer.goLive();
    if (this.video.paused) this.#viewer.resume();
  }

  /** Acts on a key; pages hand over those that nothing else took. Tells whether it was one of ours. */
  handleKey(event: KeyboardEvent): boolean {
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    const actions: Record<string, () => void> = {
      ' ': () => (this.video.paused ? this.play() : this.pause()),
      m: () => this.#toggleMute(),
      f: () => this.#toggleFullscreen(),
      l: () => this.goLive(),
      i: () => this.#toggleStats(),
      p: () => this.#togglePip(),
      ArrowUp: () => this.#changeVolume(VOLUME_STEP),
      ArrowDown: () => this.#changeVolume(-VOLUME_STEP),
    };
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return false;
    action();
    event.preventDefault();
    this.#wake();
    return true;
  }

  // Watching.

  #load(): void {
    if (!this.isConnected) return;
    const { src } = this;
    if (src === '') {
      if (this.#playing !== null) this.#viewer.stop();
      this.#playing = null;
      this.#refresh();
      return;
    }
    if (src === this.#playing) return;
    if (!this.hasAttribute('autoplay') && !this.#asked) {
      this.#refresh();
      return;
    }
    this.#playing = src;
    this.#viewer.stop();
    this.#viewer.detach();
    const latency = this.getAttribute('latency');
    this.#viewer = new BroadcastViewer({
      ...(latency === null ? {} : { latency: Number(latency) }),
      certificateSha256: this.getAttribute('certificate'),
      certificateUrl: this.getAttribute('certificate-url'),
      addresses: (this.getAttribute('addresses') ?? '').split(/\s+/).filter((address) => address !== ''),
    });
    this.#forward();
    this.#viewer.attach(this.video);
    this.#soundWanted = this.video.muted;
    this.#viewer.play(src);
    this.#refresh();
  }

  /** The viewer's events are the element's. */
  #forward(): void {
    const names = ['statechange', 'catalog', 'latency', 'stall', 'transportchange', 'tokenexpiring', 'autoplaymuted', 'error'];
    const viewer = this.#viewer;
    for (const name of names) {
      viewer.addEventListener(name, (event) => {
        if (viewer !== this.#viewer) return;
        if (name === 'autoplaymuted') this.#soundWanted = true;
        if (name === 'statechange') this.#onState();
        this.dispatchEvent(new CustomEvent(name, { detail: (event as CustomEvent<unknown>).detail }));
      });
    }
  }

  #onState(): void {
    const { retryInMs } = this.#viewer;
    this.#stateSince = performance.now();
    this.#retryAt = retryInMs === null ? null : performance.now() + retryInMs;
    this.#refresh();
    setTimeout(() => this.#refresh(), SENTENCE_AFTER_MS + 10);
  }

  // What is shown.

  #refresh(): void {
    const { state } = this.#viewer;
    const picture = this.video.readyState >= 2 && this.video.videoWidth > 0;
    this.#frame.classList.toggle('picture', picture);
    this.#refreshMessage();
    const live = state === 'playing' || state === 'paused' || state === 'buffering';
    this.#start.hidden = this.src === '' || this.#playing !== null;
    this.#sound.hidden = !(this.#soundWanted && this.video.muted && state === 'playing');
    this.#bar.hidden = !this.hasAttribute('controls') || !(live || picture);
    this.#refreshBar();
    const stats = this.hasAttribute('stats');
    this.#panel.hidden = !stats;
    this.#statsButton.setAttribute('aria-pressed', String(stats));
    if (stats) this.#refreshStats();
  }

  #refreshMessage(): void {
    const { state, reason } = this.#viewer;
    const early = performance.now() - this.#stateSince < SENTENCE_AFTER_MS;
    const passing = early && (state === 'buffering' || state === 'reconnecting' || state === 'connecting');
    const retry = this.#retryAt === null ? null : Math.max(0, this.#retryAt - performance.now());
    const waits = state === 'idle' && this.src !== '';
    const words = passing || waits ? null : sentence(state, reason, retry);
    this.#message.hidden = !words;
    if (!words) {
      this.#announce('');
      return;
    }
    this.#message.dataset['tone'] = words.tone;
    const card = make(
      'div',
      { class: 'card' },
      make('h2', {}, mark(words.mark), words.title),
      make('p', { class: 'why' }, words.why),
      make('p', { class: 'next' }, words.next),
    );
    this.#message.replaceChildren(card);
    // The countdown is for eyes only: read aloud every half second it would be noise.
    this.#announce(`${words.title}. ${words.why}`);
  }

  #announce(text: string): void {
    if (this.#announcer.textContent !== text) this.#announcer.textContent = text;
  }

  #refreshBar(): void {
    if (this.#bar.hidden) return;
    const { video } = this;
    this.#swap(this.#playButton, video.paused ? 'play' : 'pause', video.paused ? 'Play' : 'Pause', 'space');
    this.#swap(this.#muteButton, video.muted || video.volume === 0 ? 'muted' : 'sound', video.muted ? 'Unmute' : 'Mute', 'm');
    const full = document.fullscreenElement === this;
    this.#swap(this.#fullButton, full ? 'windowed' : 'fullscreen', full ? 'Leave full screen' : 'Full screen', 'f');
    this.#pipButton.hidden = document.pictureInPictureEnabled !== true;
    const volume = String(video.muted ? 0 : video.volume);
    if (this.#volume.value !== volume) this.#volume.value = volume;
    const stats = this.#viewer.stats;
    const behind = this.#viewer.behindMs - stats.bufferTargetMs;
    const away = !['playing', 'paused', 'buffering'].includes(stats.state);
    const at = away ? 'away' : behind > BEHIND_MS || stats.state === 'paused' ? 'behind' : 'edge';
    const late = this.#viewer.behindMs;
    const text = at === 'edge' ? 'Live' : at === 'away' ? 'Not live' : `${(late / 1000).toFixed(1)} s behind`;
    if (this.#liveButton.dataset['at'] !== at || this.#liveButton.lastChild?.textContent !== text) {
      this.#liveButton.dataset['at'] = at;
      this.#liveButton.setAttribute('aria-label', at === 'behind' ? `${text}, jump to live` : text);
      this.#liveButton.replaceChildren(mark(at === 'edge' ? 'full' : at === 'behind' ? 'half' : 'ring'), text);
    }
  }

  /** Changes a button's icon and label only when they differ, so that focus and hover stay. */
  #swap(button: HTMLButtonElement, name: IconName, label: string, key: string): void {
    if (button.dataset['icon'] === name && button.getAttribute('aria-label') === label) return;
    button.dataset['icon'] = name;
    button.setAttribute('aria-label', label);
    button.title = `${label} (${key})`;
    button.replaceChildren(icon(name));
  }

  #refreshStats(): void {
    if (!this.#panel.firstChild) {
      const copy = make('button', { type: 'button' }, 'Copy as JSON');
      copy.addEventListener('click', () => void this.#copy(copy));
      const close = make('button', { type: 'button', 'aria-label': 'Close statistics' }, 'Close');
      close.addEventListener('click', () => this.#toggleStats());
      this.#panel.append(make('header', {}, make('h3', {}, 'Statistics'), copy, close), make('dl'), make('figure'));
    }
    const { stats } = this.#viewer;
    const list = this.#panel.querySelector('dl');
    const cells = rows(stats).flatMap(([name, value]) => [make('dt', {}, name), make('dd', {}, value)]);
    list?.replaceChildren(...cells);
    const caption = make(
      'figcaption',
      {},
      make('span', {}, 'Latency, last 60 s'),
      make('span', {}, `target ${milliseconds(stats.latencyTargetMs)}`),
    );
    const line = sparkline(this.#viewer.latencyHistory(), stats.latencyTargetMs);
    this.#panel.querySelector('figure')?.replaceChildren(line, caption);
  }

  async #copy(button: HTMLButtonElement): Promise<void> {
    const text = JSON.stringify(this.stats, null, 2);
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = 'Copied';
    } catch {
      button.textContent = 'Not allowed';
    }
    setTimeout(() => (button.textContent = 'Copy as JSON'), 1500);
  }

  // Controls.

  #listen(): void {
    const { video } = this;
    this.#playButton.addEventListener('click', () => (video.paused ? this.play() : this.pause()));
    this.#liveButton.addEventListener('click', () => this.goLive());
    this.#muteButton.addEventListener('click', () => this.#toggleMute());
    this.#volume.addEventListener('input', () => {
      video.volume = Number(this.#volume.value);
      video.muted = video.volume === 0;
    });
    this.#statsButton.addEventListener('click', () => this.#toggleStats());
    this.#pipButton.addEventListener('click', () => this.#togglePip());
    this.#fullButton.addEventListener('click', () => this.#toggleFullscreen());
    this.#sound.addEventListener('click', () => this.#toggleMute());
    this.#start.addEventListener('click', () => this.play());
    for (const name of ['play', 'pause', 'volumechange', 'loadeddata', 'resize', 'emptied']) {
      video.addEventListener(name, () => this.#refresh());
    }
    video.addEventListener('click', () => (video.paused ? this.play() : this.#wake()));
    video.addEventListener('dblclick', () => this.#toggleFullscreen());
    this.addEventListener('fullscreenchange', () => this.#refresh());
    for (const name of ['pointermove', 'pointerdown', 'focusin']) this.#frame.addEventListener(name, () => this.#wake());
    this.#frame.addEventListener('pointerleave', () => this.#wake());
    this.#frame.addEventListener('keydown', (event) => {
      const { target } = event;
      // Buttons press themselves; a slider moves itself.
      if (target instanceof HTMLButtonElement && (event.key === ' ' || event.key === 'Enter')) return;
      if (target instanceof HTMLInputElement && event.key.startsWith('Arrow')) return;
      if (this.handleKey(event)) event.stopPropagation();
      this.#wake();
    });
  }

  #toggleMute(): void {
    const { video } = this;
    video.muted = !video.muted;
    if (!video.muted) {
      this.#soundWanted = false;
      if (video.volume === 0) video.volume = 0.5;
    }
    this.#refresh();
  }

  #changeVolume(by: number): void {
    const { video } = this;
    video.volume = Math.min(1, Math.max(0, Math.round((video.volume + by) * 100) / 100));
    video.muted = video.volume === 0;
  }

  #toggleStats(): void {
    this.toggleAttribute('stats');
    this.#refresh();
  }

  #toggleFullscreen(): void {
    if (document.fullscreenElement === this) void document.exitFullscreen();
    else if (typeof this.requestFullscreen === 'function') void this.requestFullscreen().catch(() => undefined);
    else (this.video as HTMLVideoElement & { webkitEnterFullscreen?: () => void }).webkitEnterFullscreen?.();
  }

  #togglePip(): void {
    if (document.pictureInPictureElement) void document.exitPictureInPicture();
    else void this.video.requestPictureInPicture?.().catch(() => undefined);
  }

  /** Shows the controls, and hides them again after a while unless they are in use. */
  #wake(): void {
    this.#frame.classList.remove('quiet');
    clearTimeout(this.#hideTimer);
    this.#hideTimer = setTimeout(() => {
      const focused = this.shadowRoot?.activeElement?.matches(':focus-visible') === true;
      const hovered = this.#bar.matches(':hover');
      if (focused || hovered || this.video.paused) this.#wake();
      else this.#frame.classList.add('quiet');
    }, HIDE_AFTER_MS);
  }
}
