// Where to watch: a playback URL taken apart into the WebTransport address, the namespace and the token's life. The token
// is read but not verified; that is the relay's affair.

export interface Source {
  /** `https://host:port/playback/<id>?tok=…` */
  url: string;
  id: string;
  /** `stream/<org>/<id>` */
  namespace: string[];
  /** When the token ends, ms since the Unix epoch; null when it does not say. */
  expiresMs: number | null;
}

/** Why a URL cannot be played, in words for people. */
export class SourceError extends Error {
  constructor(
    readonly code: 'auth_failed' | 'bad_url',
    message: string,
  ) {
    super(message);
    this.name = 'SourceError';
  }
}

export function parseSource(text: string, base?: string): Source {
  let url: URL;
  try {
    url = new URL(text, base);
  } catch {
    throw new SourceError('bad_url', 'This is not a playback URL.');
  }
  if (url.protocol === 'moq:' || url.protocol === 'moqt:') url = new URL(`https:${url.href.slice(url.protocol.length)}`);
  const id = /^\/playback\/([\w-]{1,128})$/.exec(url.pathname)?.[1];
  if (url.protocol !== 'https:' || !id) {
    throw new SourceError('bad_url', 'A playback URL looks like https://host:port/playback/<id>?tok=<token>.');
  }
  const token = url.searchParams.get('tok');
  if (!token) throw new SourceError('auth_failed', 'The link has no playback token.');
  const claims = readClaims(token);
  if (!claims) throw new SourceError('auth_failed', 'The playback token is damaged.');
  url.hash = '';
  return { url: url.href, id, namespace: ['stream', claims.iss, id], expiresMs: claims.exp === null ? null : claims.exp * 1000 };
}

/** The same source with another token. */
export function withToken(source: Source, token: string): Source {
  const url = new URL(source.url);
  url.searchParams.set('tok', token);
  return parseSource(url.href);
}

function readClaims(token: string): { iss: string; exp: number | null } | null {
  try {
    const payload = token.split('.')[1] ?? '';
    const json = atob(payload.replaceAll('-', '+').replaceAll('_', '/'));
    const claims: unknown = JSON.parse(new TextDecoder().decode(Uint8Array.from(json, (c) => c.charCodeAt(0))));
    if (typeof claims !== 'object' || claims === null) return null;
    const { iss, exp } = claims as { iss?: unknown; exp?: unknown };
    if (typeof iss !== 'string' || iss === '' || iss.length > 256) return null;
    return { iss, exp: typeof exp === 'number' && Number.isFinite(exp) ? exp : null };
  } catch {
    return null;
  }
}
