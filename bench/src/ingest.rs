//! What an ingested stream costs the node: publishers of known shape and pace, and the node's processor time beside them.
//! RTMP comes from one thread of its own, paced here; SRT and WHIP come from ffmpeg, a process for each publisher.

mod programs;

use std::fmt;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Serialize;
use weir::cli::Addresses;
use weir_control::{Ingest, Input, NewInput, Store, StreamKey};
use weir_feed::rtmp::client::{Replies, Writer, tags};

use self::programs::Programs;
use crate::fanout::find_relay;
use crate::process::Cost;

const FRAME_RATE: u32 = 30;
/// A keyframe every two seconds, as large as eight others.
const GROUP_FRAMES: u32 = 60;
const KEYFRAME_FACTOR: u64 = 8;
/// 128 kb/s in frames of 1024 samples at 48 kHz.
const AUDIO_BYTES: usize = 341;
const AUDIO_BITS_PER_SECOND: u32 = 128_000;
const AUDIO_MS: f64 = 1024.0 / 48.0;
/// Everything is warm by then: caches of all tracks are full, catalogs are out.
const WARM_UP: Duration = Duration::from_secs(5);

/// What publishers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RTMP with H.264 and AAC.
    Rtmp,
    /// SRT with H.264 and Opus in a transport stream, from ffmpeg.
    Srt,
    /// WHIP with H.264 and Opus, from ffmpeg 8 or later.
    Whip,
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Data directory of the running node, in which inputs are made.
    pub data_dir: PathBuf,
    /// Process of the node, when several are named weir.
    pub pid: Option<u32>,
    /// What publishers speak.
    pub protocol: Protocol,
    /// The ffmpeg that publishes over SRT and WHIP.
    pub ffmpeg: PathBuf,
    /// How many at once.
    pub streams: u32,
    /// Video bits a second of each.
    pub bitrate: u64,
    /// Length of the measured span.
    pub span: Duration,
}

/// What it cost.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    protocol: Protocol,
    streams: u32,
    video_bits_per_second: u64,
    seconds: f64,
    /// Processor milliseconds of the node for each second of one stream.
    cpu_ms_per_stream_second: f64,
    /// Streams that one core carries, if nothing else runs on it.
    streams_per_core: f64,
    /// Of what the node spent, idle cost taken off.
    system_share: f64,
    /// Ticks of the RTMP sender that came late by more than one frame: its figures are good if there are none.
    late_ticks: Option<u64>,
}

/// One publisher over RTMP.
struct Sender {
    stream: TcpStream,
    writer: Writer,
}

impl Sender {
    fn open(at: &Addresses, input: &Input, key: &StreamKey) -> Result<Self> {
        let address = at.authority(at.rtmp);
        let address = address.to_socket_addrs()?.next().ok_or_else(|| anyhow!("nowhere"))?;
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut writer = Writer::publishing("live", &format!("{}?sk={}", input.id, key.expose()));
        stream.write_all(&writer.take())?;
        let mut replies = Replies::new();
        let mut buffer = [0; 4096];
        loop {
            let length = stream.read(&mut buffer)?;
            ensure!(length > 0, "the node closed the connection");
            let said = replies.read(buffer.get(..length).unwrap_or_default());
            if said.iter().any(|line| line.contains("NetStream.Publish.Start")) {
                break;
            }
            if let Some(refusal) = said.iter().find(|line| line.contains("BadName")) {
                bail!("refused: {refusal}");
            }
        }
        writer.set_chunk_size(65_536);
        writer.video(0, tags::VIDEO_CONFIGURATION).audio(0, tags::AUDIO_CONFIGURATION);
        Ok(Self { stream, writer })
    }

    fn send(&mut self, tick: &Tick) -> Result<()> {
        self.writer.video(tick.video_ms, &tags::picture(tick.keyframe, 0, tick.picture_bytes));
        for ms in &tick.audio_ms {
            self.writer.audio(*ms, &tags::audio(AUDIO_BYTES));
        }
        self.stream.write_all(&self.writer.take()).context("a publisher was cut off")
    }
}

/// One picture and the sound that goes with it.
struct Tick {
    video_ms: u32,
    keyframe: bool,
    picture_bytes: usize,
    audio_ms: Vec<u32>,
}

impl Tick {
    fn new(frame: u32, bitrate: u64) -> Self {
        let at = |frame: u32| f64::from(frame) * 1000.0 / f64::from(FRAME_RATE);
        let keyframe = frame.is_multiple_of(GROUP_FRAMES);
        let shares = u64::from(GROUP_FRAMES) - 1 + KEYFRAME_FACTOR;
        let share = bitrate / 8 * u64::from(GROUP_FRAMES / FRAME_RATE) / shares;
        let bytes = if keyframe { share * KEYFRAME_FACTOR } else { share };
        let count = |ms: f64| (ms / AUDIO_MS).ceil() as u32;
        let audio = count(at(frame))..count(at(frame + 1));
        Self {
            video_ms: at(frame) as u32,
            keyframe,
            picture_bytes: bytes as usize,
            audio_ms: audio.map(|number| (f64::from(number) * AUDIO_MS) as u32).collect(),
        }
    }
}

/// Publishes and measures.
pub fn run(options: &Options) -> Result<Report> {
    ensure!(options.streams > 0 && !options.span.is_zero(), "streams and seconds are at least 1");
    let pid = options.pid.map_or_else(find_relay, Ok)?;
    let at = Addresses::of_running(&options.data_dir)
        .ok_or_else(|| anyhow!("no weir is running on {}", options.data_dir.display()))?;
    let inputs = inputs(options)?;
    let idle = cost_of(pid, WARM_UP)?;
    let measured = match options.protocol {
        Protocol::Rtmp => pace(options, pid, &at, &inputs)?,
        Protocol::Srt | Protocol::Whip => watch(options, pid, &at, &inputs)?,
    };
    let seconds = measured.span.as_secs_f64();
    let spent = measured.spent;
    let own = (spent.processor().as_secs_f64() - idle * seconds).max(1e-6);
    let per_stream = own / seconds / f64::from(options.streams);
    Ok(Report {
        protocol: options.protocol,
        streams: options.streams,
        video_bits_per_second: options.bitrate,
        seconds,
        cpu_ms_per_stream_second: per_stream * 1e3,
        streams_per_core: 1.0 / per_stream,
        system_share: spent.system.as_secs_f64() / spent.processor().as_secs_f64().max(1e-9),
        late_ticks: measured.late,
    })
}

/// What the node spent while everybody published.
struct Measured {
    span: Duration,
    spent: Cost,
    late: Option<u64>,
}

/// Looks on while programs publish.
fn watch(
    options: &Options,
    pid: u32,
    at: &Addresses,
    inputs: &[(Input, StreamKey)],
) -> Result<Measured> {
    let Options { protocol, ffmpeg, bitrate, span, .. } = options;
    let mut programs = Programs::start(*protocol, ffmpeg, *bitrate, at, inputs)?;
    std::thread::sleep(WARM_UP);
    let (since, before) = (Instant::now(), Cost::of(pid)?);
    std::thread::sleep(*span);
    let spent = Cost::of(pid)?.since(&before);
    let span = since.elapsed();
    programs.check()?;
    Ok(Measured { span, spent, late: None })
}

/// Publishes from this thread.
fn pace(
    options: &Options,
    pid: u32,
    at: &Addresses,
    inputs: &[(Input, StreamKey)],
) -> Result<Measured> {
    let mut senders = inputs
        .iter()
        .map(|(input, key)| Sender::open(at, input, key))
        .collect::<Result<Vec<_>>>()?;
    let began = Instant::now();
    let (mut before, mut late) = (None, 0);
    let total = WARM_UP + options.span;
    for frame in 0_u32.. {
        let due = began + Duration::from_secs(1) * frame / FRAME_RATE;
        let now = Instant::now();
        if before.is_none() && now >= began + WARM_UP {
            before = Some((now, Cost::of(pid)?));
        }
        if now >= began + total {
            break;
        }
        if now > due + Duration::from_secs(1) / FRAME_RATE {
            late += u64::from(before.is_some());
        }
        std::thread::sleep(due.saturating_duration_since(now));
        let tick = Tick::new(frame, options.bitrate);
        for sender in &mut senders {
            sender.send(&tick)?;
        }
    }
    let (since, before) = before.ok_or_else(|| anyhow!("nothing was measured"))?;
    let spent = Cost::of(pid)?.since(&before);
    Ok(Measured { span: since.elapsed(), spent, late: Some(late) })
}

/// Share of a core that the node takes with nothing to do.
fn cost_of(pid: u32, span: Duration) -> Result<f64> {
    let before = Cost::of(pid)?;
    std::thread::sleep(span);
    let spent = Cost::of(pid)?.since(&before);
    Ok(spent.processor().as_secs_f64() / span.as_secs_f64())
}

fn inputs(options: &Options) -> Result<Vec<(Input, StreamKey)>> {
    let ingest = match options.protocol {
        Protocol::Rtmp => Ingest::Rtmp,
        Protocol::Srt => Ingest::Srt,
        Protocol::Whip => Ingest::Whip,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = Store::open(&options.data_dir).await?;
        let mut inputs = Vec::new();
        for number in 0..options.streams {
            let mut new = NewInput::new(format!("weir-bench {} {number}", ingest.as_str()), ingest);
            new.reconnect_window_s = 0;
            inputs.push(store.ensure_input(new).await?);
        }
        store.close().await;
        Ok(inputs)
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mbps = self.video_bits_per_second as f64 / 1e6;
        write!(
            f,
            "{:?}, {} streams of {mbps} Mb/s for {:.0} s: {:.2} ms of processor for a second of one stream, {:.0} streams a core, {:.0} % in the kernel",
            self.protocol,
            self.streams,
            self.seconds,
            self.cpu_ms_per_stream_second,
            self.streams_per_core,
            self.system_share * 100.0,
        )?;
        self.late_ticks.map_or(Ok(()), |late| write!(f, ", {late} late ticks"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_has_the_bitrate_asked_for_and_sound_in_time() {
        for bitrate in [2_500_000, 6_000_000] {
            let ticks: Vec<_> = (0..600).map(|frame| Tick::new(frame, bitrate)).collect();
            let bits: u64 = ticks.iter().map(|tick| tick.picture_bytes as u64 * 8).sum();
            assert!((bits as f64 / 20.0 / bitrate as f64 - 1.0).abs() < 0.02, "{bits}");
            assert_eq!(ticks.iter().filter(|tick| tick.keyframe).count(), 10);
            let sounds: usize = ticks.iter().map(|tick| tick.audio_ms.len()).sum();
            assert!((937..=939).contains(&sounds), "{sounds}");
        }
    }
}
