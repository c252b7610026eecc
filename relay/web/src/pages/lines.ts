// The lines that make an encoder publish to an input: what to type into OBS, and commands for ffmpeg and GStreamer. Pure
// text from addresses; knows no page.

export type Urls = Record<'rtmp' | 'rtmps' | 'srt' | 'whip' | 'publish', string>;
export type Ingest = 'rtmp' | 'srt' | 'whip' | 'fmp4';

export interface Line {
  /** What to do with it. */
  label: string;
  text: string;
}

export interface Recipe {
  /** The protocol, as people know it. */
  title: string;
  tool: 'OBS' | 'ffmpeg' | 'GStreamer' | 'Other';
  lines: Line[];
}

const FFMPEG_VIDEO = '-c:v libx264 -preset veryfast -tune zerolatency -pix_fmt yuv420p -g 60';
const GST_VIDEO =
  'videotestsrc is-live=true ! video/x-raw,width=1280,height=720,framerate=30/1 ! x264enc tune=zerolatency key-int-max=60 bitrate=2500 ! h264parse';
const GST_AUDIO = 'audiotestsrc is-live=true ! audioconvert ! audioresample ! avenc_aac ! aacparse';

/** How to publish to an input of this kind, for each tool. */
export function recipes(ingest: Ingest, urls: Urls): Recipe[] {
  switch (ingest) {
    case 'rtmp':
      return [...overRtmp('RTMP', urls.rtmp), ...overRtmp('RTMPS', urls.rtmps)];
    case 'srt':
      return overSrt(urls.srt);
    case 'whip':
      return overWhip(urls.whip);
    case 'fmp4':
      return [
        {
          title: 'MoQT',
          tool: 'Other',
          lines: [{ label: 'WebTransport address for a publisher that sends CMAF over MoQT', text: urls.publish }],
        },
      ];
  }
}

function overRtmp(title: string, url: string): Recipe[] {
  // rtmp://host:port/live/<id>?sk=<key>: OBS wants the last part apart.
  const cut = url.lastIndexOf('/');
  return [
    {
      title,
      tool: 'OBS',
      lines: [
        { label: 'Settings, Stream, Service: Custom. Server', text: url.slice(0, cut) },
        { label: 'Stream key', text: url.slice(cut + 1) },
      ],
    },
    {
      title,
      tool: 'ffmpeg',
      lines: [{ label: 'Command', text: `ffmpeg -re -i input.mp4 ${FFMPEG_VIDEO} -c:a aac -f flv ${quoted(url)}` }],
    },
    {
      title,
      tool: 'GStreamer',
      lines: [
        {
          label: 'Command',
          text: `gst-launch-1.0 ${GST_VIDEO} ! flvmux name=mux streamable=true ! rtmp2sink location=${quoted(url)} ${GST_AUDIO} ! mux.`,
        },
      ],
    },
  ];
}

function overSrt(url: string): Recipe[] {
  const [address = url, id = ''] = url.split('?streamid=');
  return [
    {
      title: 'SRT',
      tool: 'OBS',
      lines: [{ label: 'Settings, Stream, Service: Custom. Server (leave the stream key empty)', text: url }],
    },
    {
      title: 'SRT',
      tool: 'ffmpeg',
      lines: [{ label: 'Command', text: `ffmpeg -re -i input.mp4 ${FFMPEG_VIDEO} -c:a aac -f mpegts ${quoted(url)}` }],
    },
    {
      title: 'SRT',
      tool: 'GStreamer',
      lines: [
        {
          label: 'Command',
          text: `gst-launch-1.0 ${GST_VIDEO} ! mpegtsmux name=mux ! srtsink uri=${quoted(address)} streamid=${quoted(id)} ${GST_AUDIO} ! mux.`,
        },
      ],
    },
  ];
}

function overWhip(url: string): Recipe[] {
  const [address = url, key = ''] = url.split('?sk=');
  return [
    {
      title: 'WHIP',
      tool: 'OBS',
      lines: [
        { label: 'Settings, Stream, Service: WHIP (OBS 30 or later). Server', text: address },
        { label: 'Bearer token', text: key },
      ],
    },
    {
      title: 'WHIP',
      tool: 'ffmpeg',
      lines: [
        {
          label: 'Command (ffmpeg 8 or later)',
          text: `ffmpeg -re -i input.mp4 ${FFMPEG_VIDEO} -profile:v baseline -bf 0 -c:a libopus -ar 48000 -ac 2 -f whip -authorization ${quoted(key)} ${quoted(address)}`,
        },
      ],
    },
    {
      title: 'WHIP',
      tool: 'GStreamer',
      lines: [
        {
          label: 'Command (GStreamer 1.24 or later)',
          text: `gst-launch-1.0 whipclientsink name=ws signaller::whip-endpoint=${quoted(address)} signaller::auth-token=${quoted(key)} videotestsrc is-live=true ! videoconvert ! ws. audiotestsrc is-live=true ! audioconvert ! ws.`,
        },
      ],
    },
  ];
}

/** For a shell: our addresses and keys have no quotes in them. */
function quoted(text: string): string {
  return `'${text}'`;
}
