// The lines a person pastes into an encoder: each has its address and key, in the place where that encoder wants them.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { type Ingest, type Site, type Tool, TOOLS, type Urls, recipes } from '../src/pages/lines.js';

const URLS: Urls = {
  rtmp: 'rtmp://h:1935/live/lv_1?sk=k',
  rtmps: 'rtmps://h:1936/live/lv_1?sk=k',
  srt: 'srt://h:8890?streamid=lv_1:k&passphrase=correct-horse&pbkeylen=24',
  whip: 'https://h:443/whip/lv_1?sk=k',
  publish: 'https://h:4443/publish/lv_1?sk=k',
};
const OWN: Site = { origin: 'http://h:8080', selfSigned: true };
const VOUCHED: Site = { origin: 'https://h', selfSigned: false };

const texts = (ingest: Ingest, tool: Tool, site = VOUCHED): string[] =>
  recipes(ingest, URLS, site)
    .filter((recipe) => recipe.tool === tool)
    .flatMap(({ lines }) => lines.map(({ text }) => text));

test('each kind of input has its addresses and a way for each tool', () => {
  assert.deepEqual(texts('rtmp', 'Addresses'), [URLS.rtmp, URLS.rtmps]);
  assert.deepEqual(texts('srt', 'Addresses'), [URLS.srt]);
  assert.deepEqual(texts('whip', 'Addresses'), ['https://h:443/whip/lv_1', 'k']);
  assert.deepEqual(texts('fmp4', 'Addresses'), [URLS.publish]);
  for (const ingest of ['rtmp', 'srt', 'whip', 'fmp4'] as const) {
    const tools = new Set(recipes(ingest, URLS, OWN).map(({ tool }) => tool));
    const wanted = TOOLS.filter((tool) => tool !== 'Browser' || ingest === 'whip' || ingest === 'fmp4');
    assert.deepEqual(TOOLS.filter((tool) => tools.has(tool)), wanted, ingest);
  }
});

test('OBS has server and key apart over RTMP and WHIP, and all in one over SRT', () => {
  assert.deepEqual(texts('rtmp', 'OBS'), ['rtmp://h:1935/live', 'lv_1?sk=k', 'rtmps://h:1936/live', 'lv_1?sk=k']);
  assert.deepEqual(texts('srt', 'OBS'), [URLS.srt]);
  assert.deepEqual(texts('whip', 'OBS'), ['https://h:443/whip/lv_1', 'k']);
  assert.deepEqual(texts('fmp4', 'OBS'), [''], 'it cannot, and is told what can');
});

test('GStreamer has what an SRT address says as properties', () => {
  assert.match(texts('srt', 'GStreamer')[0] ?? '', / uri='srt:\/\/h:8890' streamid='lv_1:k' passphrase='correct-horse' pbkeylen='24' /);
});

test('a certificate that nobody vouches for is not looked at, or not met at all', () => {
  const [plain, sealed] = texts('rtmp', 'ffmpeg', OWN);
  assert.doesNotMatch(plain ?? '', /tls_verify/);
  assert.match(sealed ?? '', / -tls_verify 0 -f flv 'rtmps:/);
  assert.match(texts('rtmp', 'GStreamer', OWN)[1] ?? '', / tls-validation-flags=0 /);
  assert.match(texts('whip', 'ffmpeg', OWN)[0] ?? '', / -authorization 'k' 'http:\/\/h:8080\/whip\/lv_1'$/);
  assert.match(texts('fmp4', 'ffmpeg', OWN)[0] ?? '', / --insecure$/);
  for (const ingest of ['rtmp', 'whip', 'fmp4'] as const) {
    for (const tool of TOOLS) assert.doesNotMatch(texts(ingest, tool).join(), /tls_verify|tls-validation|--insecure|http:/);
  }
});

test('a browser is sent to the page of the input, without the key in the address', () => {
  assert.deepEqual(texts('fmp4', 'Browser', OWN), ['http://h:8080/publish/lv_1', 'k']);
  assert.deepEqual(texts('whip', 'Browser', OWN), ['http://h:8080/publish/lv_1?transport=whip', 'k']);
});
