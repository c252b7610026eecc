// What the player says: one sentence for each state, a reason, and what happens next. Owns the words and the rounding of
// numbers; nothing here touches the page.

import type { State, ViewerStats } from '../viewer/viewer.js';
import type { Mark } from './icons.js';

export interface Sentence {
  mark: Mark;
  tone: 'idle' | 'warn' | 'bad';
  title: string;
  why: string;
  next: string;
}

/** Null when the picture speaks for itself. */
export function sentence(state: State, reason: string, retryInMs: number | null): Sentence | null {
  switch (state) {
    case 'playing':
    case 'paused':
      return null;
    case 'idle':
      return { mark: 'ring', tone: 'idle', title: 'Nothing to play', why: 'The player has no playback URL.', next: '' };
    case 'connecting':
      return { mark: 'half', tone: 'idle', title: 'Connecting', why: '', next: '' };
    case 'buffering':
      return { mark: 'half', tone: 'idle', title: 'Buffering', why: 'Waiting for the next picture.', next: '' };
    case 'stalled':
      return {
        mark: 'half',
        tone: 'warn',
        title: 'The publisher has paused',
        why: 'Nothing new arrives from it.',
        next: 'The picture goes on here by itself when it returns.',
      };
    case 'reconnecting': {
      const seconds = retryInMs === null ? null : Math.max(1, Math.round(retryInMs / 1000));
      return {
        mark: 'half',
        tone: 'warn',
        title: 'Reconnecting',
        why: plain(reason) || 'The connection to the relay was lost.',
        next: seconds === null ? 'Trying again now.' : `Next try in ${seconds} s.`,
      };
    }
    case 'offline':
      return {
        mark: 'ring',
        tone: 'idle',
        title: 'Not live',
        why: reason === '' ? 'Nobody is publishing to this broadcast now.' : plain(reason),
        next: 'It starts here by itself when it goes live.',
      };
    case 'ended':
      return {
        mark: 'ring',
        tone: 'idle',
        title: 'The broadcast has ended',
        why: '',
        next: 'It starts here by itself if it goes live again.',
      };
    case 'auth failed':
      return { mark: 'cross', tone: 'bad', title: 'Not authorised', why: refusal(reason), next: 'Ask for a new link.' };
    case 'failed':
      return { mark: 'cross', tone: 'bad', title: 'Cannot play this broadcast', why: plain(reason), next: '' };
  }
}

/** The relay's reasons behind `auth_failed: `, in words for people. */
const REFUSALS: Record<string, string> = {
  '': 'The relay refused the playback token.',
  expired: 'The playback token has expired.',
  'not yet valid': 'The playback token is not valid yet.',
  revoked: 'The playback token was withdrawn.',
  'other stream': 'The playback token is for another broadcast.',
  'token missing': 'The link has no playback token.',
  signature: 'The playback token is damaged or was signed by somebody else.',
  'unknown kid': 'The playback token was signed with a key this server does not know.',
  'token malformed': 'The playback token is damaged.',
};

function refusal(reason: string): string {
  const text = reason.replace(/^auth_failed:?\s*/, '').replace(/^token_/, '');
  return REFUSALS[text] ?? (/playback token/.test(text) ? text : `The relay refused the playback token (${text}).`);
}

function plain(reason: string): string {
  const text = reason.trim();
  if (text === '') return '';
  if (/handshake failed|no answer/i.test(text)) return 'The relay cannot be reached.';
  if (/connection lost/i.test(text)) return 'The connection to the relay was lost.';
  return /[.!?]$/.test(text) ? text : `${text[0]?.toUpperCase() ?? ''}${text.slice(1)}.`;
}

export function milliseconds(ms: number | null | undefined): string {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) return '–';
  if (Math.abs(ms) < 1000) return `${Math.round(ms)} ms`;
  return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
}

export function bitrate(bits: number): string {
  if (bits <= 0) return '–';
  return bits >= 1e6 ? `${(bits / 1e6).toFixed(1)} Mb/s` : `${Math.round(bits / 1e3)} kb/s`;
}

export function span(seconds: number | null): string {
  if (seconds === null) return '–';
  if (seconds <= 0) return 'expired';
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  return h > 0 ? `${h} h ${m} min` : m > 0 ? `${m} min ${s} s` : `${s} s`;
}

const count = (value: number): string => value.toLocaleString('en-US');

/** The rows of the stats overlay. */
export function rows(stats: ViewerStats): [string, string][] {
  const { video, audio } = stats.tracks;
  const codecs = [video?.codec, audio?.codec].filter((codec) => codec !== undefined).join(', ');
  return [
    ['State', stats.state],
    ['Transport', `WebTransport, ${stats.draft}, ${stats.worker ? 'worker' : 'page'}`],
    ['Round trip', milliseconds(stats.rttMs)],
    ['Latency', `${milliseconds(stats.latencyMs)} of ${milliseconds(stats.latencyTargetMs)}`],
    ['Glass to glass', `p50 ${milliseconds(stats.glassToGlass.p50)}, p99 ${milliseconds(stats.glassToGlass.p99)}`],
    ['Buffer', `${milliseconds(stats.bufferMs)} of ${milliseconds(stats.bufferTargetMs)}`],
    ['Rate', `${stats.playbackRate.toFixed(3)}×`],
    ['Bitrate', bitrate(stats.bitrate)],
    ['Resolution', stats.resolution ? `${stats.resolution.width}×${stats.resolution.height}` : '–'],
    ['Codecs', codecs || '–'],
    ['Frames dropped', `${count(stats.droppedFrames)} of ${count(stats.totalFrames)}`],
    ['Groups skipped', `${count(stats.groupsSkipped)} of ${count(stats.groupsReceived + stats.groupsSkipped)}`],
    ['Stalls', `${count(stats.rebuffers)} playback, ${count(stats.stalls)} network`],
    ['Reconnects', `${count(stats.reconnects)}, ${count(stats.jumps)} jumps`],
    ['First picture', milliseconds(stats.firstFrameMs)],
    ['Token left', span(stats.tokenSecondsLeft)],
  ];
}
