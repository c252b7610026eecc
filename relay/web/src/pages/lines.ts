// The lines that make an encoder publish to an input: its addresses, what to type into OBS, commands for ffmpeg and GStreamer,
// and the page for a browser. Pure text from addresses; knows no page.

export type Urls = Record<'rtmp' | 'rtmps' | 'srt' | 'whip' | 'publish', string>;
export type Ingest = 'rtmp' | 'srt' | 'whip' | 'fmp4';

export interface Line {
  /** What to do with it. */
  label: string;
  /** Nothing to copy where the label says it all. */
  text: string;
}

export const TOOLS = ['Addresses', 'OBS', 'ffmpeg', 'GStreamer', 'Browser'] as const;
export type Tool = (typeof TOOLS)[number];

export interface Recipe {
  /** The protocol, as people know it. */
  title: string;
  tool: Tool;
  lines: Line[];
}

/** What the lines depend on besides the addresses. */
export interface Site {
  /** Where the pages are: `http://host:port`. */
  origin: string;
  /** Programs refuse such a certificate unless they are told not to look. */
  selfSigned: boolean;
}

const FFMPEG_SOURCE = 'ffmpeg -re -i input.mp4 -c:v libx264 -preset veryfast -tune zerolatency -pix_fmt yuv420p -g 60';
const GST_VIDEO =
  'gst-launch-1.0 videotestsrc is-live=true ! video/x-raw,width=1280,height=720,framerate=30/1 ! x264enc tune=zerolatency key-int-max=60 bitrate=2500 ! h264parse';
const GST_AUDIO = 'audiotestsrc is-live=true ! audioconvert ! audioresample ! avenc_aac ! aacparse';

/** How to publish to an input of this kind, for each tool. */
export function recipes(ingest: Ingest, urls: Urls, site: Site): Recipe[] {
  switch (ingest) {
    case 'rtmp':
      return [...overRtmp('RTMP', urls.rtmp, { ...site, selfSigned: false }), ...overRtmp('RTMPS', urls.rtmps, site)];
    case 'srt':
      return overSrt(urls.srt);
    case 'whip':
      return overWhip(urls.whip, site);
    case 'fmp4':
      return overMoqt(urls.publish, site);
  }
}

function overRtmp(title: string, url: string, { selfSigned }: Site): Recipe[] {
  // rtmp://host:port/live/<id>?sk=<key>: OBS wants the last part apart.
  const cut = url.lastIndexOf('/');
  const [ffmpeg, gst] = selfSigned ? ['-tls_verify 0 ', 'tls-validation-flags=0 '] : ['', ''];
  const server = selfSigned
    ? 'OBS needs a certificate of an authority for RTMPS, which this node has not. Server'
    : 'Settings, Stream, Service: Custom. Server';
  return [
    { title, tool: 'Addresses', lines: [{ label: 'With the stream key', text: url }] },
    {
      title,
      tool: 'OBS',
      lines: [
        { label: server, text: url.slice(0, cut) },
        { label: 'Stream key', text: url.slice(cut + 1) },
      ],
    },
    { title, tool: 'ffmpeg', lines: [{ label: 'Command', text: `${FFMPEG_SOURCE} -c:a aac ${ffmpeg}-f flv ${quoted(url)}` }] },
    {
      title,
      tool: 'GStreamer',
      lines: [
        {
          label: 'Command',
          text: `${GST_VIDEO} ! flvmux name=mux streamable=true ! rtmp2sink ${gst}location=${quoted(url)} ${GST_AUDIO} ! mux.`,
        },
      ],
    },
  ];
}

function overSrt(url: string): Recipe[] {
  const title = 'SRT';
  const [address = url, query = ''] = url.split('?');
  const properties = query.split('&').map((pair) => {
    const [name = '', ...value] = pair.split('=');
    return `${name}=${quoted(value.join('='))}`;
  });
  return [
    { title, tool: 'Addresses', lines: [{ label: 'Caller mode, with the stream id', text: url }] },
    {
      title,
      tool: 'OBS',
      lines: [{ label: 'Settings, Stream, Service: Custom. Server (leave the stream key empty)', text: url }],
    },
    { title, tool: 'ffmpeg', lines: [{ label: 'Command', text: `${FFMPEG_SOURCE} -c:a aac -f mpegts ${quoted(url)}` }] },
    {
      title,
      tool: 'GStreamer',
      lines: [
        {
          label: 'Command',
          text: `${GST_VIDEO} ! mpegtsmux name=mux alignment=7 ! srtsink uri=${quoted(address)} ${properties.join(' ')} ${GST_AUDIO} ! mux.`,
        },
      ],
    },
  ];
}

function overWhip(url: string, { origin, selfSigned }: Site): Recipe[] {
  const title = 'WHIP';
  const [secure = url, key = ''] = url.split('?sk=');
  // No WHIP encoder can be told to take a certificate that nobody vouches for; the pages' own port takes WHIP as well.
  const address = selfSigned ? origin + new URL(secure).pathname : secure;
  const clear = selfSigned && origin.startsWith('http:') ? ', in the clear because no authority vouches for the certificate' : '';
  return [
    {
      title,
      tool: 'Addresses',
      lines: [
        { label: `Endpoint${clear}`, text: address },
        { label: 'Bearer token', text: key },
      ],
    },
    {
      title,
      tool: 'OBS',
      lines: [
        { label: `Settings, Stream, Service: WHIP (OBS 30 or later). Server${clear}`, text: address },
        { label: 'Bearer token', text: key },
      ],
    },
    {
      title,
      tool: 'ffmpeg',
      lines: [
        {
          label: `Command, ffmpeg 8 or later${clear}`,
          text: `${FFMPEG_SOURCE} -profile:v baseline -bf 0 -c:a libopus -ar 48000 -ac 2 -f whip -authorization ${quoted(key)} ${quoted(address)}`,
        },
      ],
    },
    {
      title,
      tool: 'GStreamer',
      lines: [
        {
          label: `Command, GStreamer 1.24 or later with the Rust plugins${clear}`,
          text: `gst-launch-1.0 whipclientsink name=ws signaller::whip-endpoint=${quoted(address)} signaller::auth-token=${quoted(key)} videotestsrc is-live=true ! videoconvert ! ws. audiotestsrc is-live=true ! audioconvert ! ws.`,
        },
      ],
    },
    fromBrowser(address, key, origin, '?transport=whip'),
  ];
}

function overMoqt(url: string, { origin, selfSigned }: Site): Recipe[] {
  const title = 'Fragmented MP4 over MoQT';
  const [address = url, key = ''] = url.split('?sk=');
  const publish = `weir publish - ${quoted(url)}${selfSigned ? ' --insecure' : ''}`;
  return [
    { title, tool: 'Addresses', lines: [{ label: 'WebTransport, or moqt:// for raw QUIC, with the stream key', text: url }] },
    {
      title,
      tool: 'OBS',
      lines: [{ label: 'OBS does not send this. Make an input that takes RTMP, SRT or WHIP.', text: '' }],
    },
    {
      title,
      tool: 'ffmpeg',
      lines: [
        {
          label: 'Command, with weir on the same machine',
          text: `${FFMPEG_SOURCE} -c:a aac -f mp4 -movflags empty_moov+default_base_moof+frag_every_frame - | ${publish}`,
        },
      ],
    },
    {
      title,
      tool: 'GStreamer',
      lines: [
        {
          label: 'Command, with weir on the same machine',
          text: `${GST_VIDEO} ! mp4mux name=mux streamable=true fragment-duration=100 ! fdsink ${GST_AUDIO} ! mux. | ${publish}`,
        },
      ],
    },
    fromBrowser(address, key, origin, ''),
  ];
}

function fromBrowser(address: string, key: string, origin: string, query: string): Recipe {
  const { pathname } = new URL(address);
  const id = pathname.slice(pathname.lastIndexOf('/') + 1);
  return {
    title: 'Camera or screen',
    tool: 'Browser',
    lines: [
      { label: 'Open this page in the browser that has the camera', text: `${origin}/publish/${id}${query}` },
      { label: 'and put this into its field Stream key', text: key },
    ],
  };
}

/** For a shell: our addresses and keys have no quotes in them. */
function quoted(text: string): string {
  return `'${text}'`;
}
