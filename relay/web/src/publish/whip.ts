// Publishing by WHIP (RFC 9725), for browsers that cannot hand out a camera's frames: one POST with an offer, one DELETE at
// the end. Owns the peer connection; the browser does the rest.

/** How long candidates are gathered before the offer goes out: host addresses are there at once. */
const GATHER_MS = 1000;
/** Checks of all candidates and a DTLS handshake over a bad path; past it nothing comes. */
const CONNECT_WITHIN_MS = 15_000;

export interface WhipStats {
  bytesSent: number;
  fps: number;
  width: number;
  height: number;
  rttMs: number | null;
  videoCodec: string | null;
  audioCodec: string | null;
}

export class Whip {
  /** Resolves once, when the connection is lost or closed. */
  readonly ended: Promise<string>;
  #peer = new RTCPeerConnection({ bundlePolicy: 'max-bundle' });
  #resource: string | null = null;
  #end!: (reason: string) => void;
  #connected!: () => void;
  #isConnected: Promise<void>;

  constructor() {
    this.ended = new Promise((resolve) => (this.#end = resolve));
    this.#isConnected = new Promise((resolve) => (this.#connected = resolve));
    this.#peer.addEventListener('connectionstatechange', () => {
      if (this.#peer.connectionState === 'connected') this.#connected();
      if (this.#peer.connectionState === 'failed') this.#end('the media connection failed');
    });
  }

  /** Until media can flow; throws with the API's code, or with what went wrong on the way. */
  async start(endpoint: string, key: string, stream: MediaStream): Promise<void> {
    for (const track of stream.getTracks()) {
      const transceiver = this.#peer.addTransceiver(track, { direction: 'sendonly', streams: [stream] });
      if (track.kind === 'video') preferH264(transceiver);
    }
    await this.#peer.setLocalDescription();
    await gathered(this.#peer);
    const response = await fetch(endpoint, {
      method: 'POST',
      headers: { 'content-type': 'application/sdp', authorization: `Bearer ${key}` },
      body: this.#peer.localDescription?.sdp ?? '',
    });
    if (response.status !== 201) throw new Error(await reasonOf(response));
    const location = response.headers.get('location');
    this.#resource = location === null ? null : new URL(location, endpoint).href;
    // Stopped while the answer was on its way: the node has a session that nobody wants.
    if (this.#peer.signalingState === 'closed') await this.stop();
    await this.#peer.setRemoteDescription({ type: 'answer', sdp: await response.text() });
    const timer = setTimeout(() => this.#end('no media connection: is UDP blocked?'), CONNECT_WITHIN_MS);
    const over = this.ended.then((reason) => Promise.reject(new Error(reason)));
    await Promise.race([this.#isConnected, over]).finally(() => clearTimeout(timer));
  }

  async stats(): Promise<WhipStats> {
    const stats: WhipStats = { bytesSent: 0, fps: 0, width: 0, height: 0, rttMs: null, videoCodec: null, audioCodec: null };
    const report = await this.#peer.getStats();
    for (const entry of report.values() as Iterable<Record<string, unknown>>) {
      if (entry['type'] === 'outbound-rtp') {
        stats.bytesSent += number(entry['bytesSent']);
        const codec = (report.get(String(entry['codecId'])) as { mimeType?: string } | undefined)?.mimeType ?? null;
        if (entry['kind'] === 'audio') stats.audioCodec = codec;
        if (entry['kind'] !== 'video') continue;
        stats.videoCodec = codec;
        stats.fps = number(entry['framesPerSecond']);
        stats.width = number(entry['frameWidth']);
        stats.height = number(entry['frameHeight']);
      }
      if (entry['type'] === 'remote-inbound-rtp' && typeof entry['roundTripTime'] === 'number') {
        stats.rttMs = entry['roundTripTime'] * 1000;
      }
    }
    return stats;
  }

  async stop(): Promise<void> {
    this.#peer.close();
    const resource = this.#resource;
    this.#resource = null;
    this.#end('');
    if (resource !== null) await fetch(resource, { method: 'DELETE', keepalive: true }).catch(() => null);
  }
}

function number(value: unknown): number {
  return typeof value === 'number' ? value : 0;
}

/** What every viewer can play. */
function preferH264(transceiver: RTCRtpTransceiver): void {
  const codecs = RTCRtpSender.getCapabilities('video')?.codecs ?? [];
  const wanted = codecs.filter((codec) => codec.mimeType === 'video/H264');
  const others = codecs.filter((codec) => codec.mimeType !== 'video/H264');
  if (wanted.length > 0) transceiver.setCodecPreferences?.([...wanted, ...others]);
}

function gathered(peer: RTCPeerConnection): Promise<void> {
  return new Promise((resolve) => {
    const look = (): void => {
      if (peer.iceGatheringState === 'complete') resolve();
    };
    peer.addEventListener('icegatheringstatechange', look);
    setTimeout(resolve, GATHER_MS);
    look();
  });
}

async function reasonOf(response: Response): Promise<string> {
  try {
    const problem = (await response.json()) as { code?: unknown };
    if (typeof problem.code === 'string') return problem.code;
  } catch {
    // No problem document: the status says it.
  }
  const codes: Record<number, string> = { 401: 'auth_failed', 404: 'auth_failed', 409: 'input_busy', 503: 'capacity' };
  return codes[response.status] ?? `the endpoint answers ${response.status}`;
}
