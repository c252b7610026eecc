//! Publishers that are programs: ffmpeg copies one prepared file over SRT or WHIP in real time, as often as there are inputs.
//! It owns the file and the processes, and ends them when dropped; what they cost the node is its caller's affair.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use weir::cli::Addresses;
use weir_control::{Input, StreamKey};

use super::{AUDIO_BITS_PER_SECOND, FRAME_RATE, GROUP_FRAMES, Protocol};

/// Length of the file that goes round.
const FILE_SECONDS: u32 = 10;
/// An ffmpeg that is the passive end of DTLS takes a second; forty of them on a busy core take longer.
const ALL_LIVE_WITHIN: Duration = Duration::from_mins(1);
const LEAVE_WITHIN: Duration = Duration::from_secs(5);
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Publishers at work.
pub(super) struct Programs {
    children: Vec<Child>,
    file: PathBuf,
}

impl Programs {
    /// Encodes the file and starts a publisher for each input; they are live when this returns.
    pub(super) fn start(
        protocol: Protocol,
        ffmpeg: &Path,
        bitrate: u64,
        at: &Addresses,
        inputs: &[(Input, StreamKey)],
    ) -> Result<Self> {
        let name = format!("weir-bench-ingest-{}-{bitrate}.mp4", std::process::id());
        let file = std::env::temp_dir().join(name);
        let mut programs = Self { children: Vec::new(), file };
        encode(ffmpeg, bitrate, &programs.file)?;
        for (input, key) in inputs {
            let mut command = quiet(ffmpeg);
            command.args(["-re", "-stream_loop", "-1", "-i"]).arg(&programs.file);
            command.args(["-c", "copy"]).args(target(protocol, at, input, key));
            let child = command.spawn().with_context(|| format!("{} starts", ffmpeg.display()))?;
            programs.children.push(child);
        }
        programs.wait_until_live(protocol, at)?;
        Ok(programs)
    }

    fn wait_until_live(&mut self, protocol: Protocol, at: &Addresses) -> Result<()> {
        let until = Instant::now() + ALL_LIVE_WITHIN;
        loop {
            self.check()?;
            let live = feeds(&metrics(at)?, protocol);
            if live >= self.children.len() {
                return Ok(());
            }
            ensure!(Instant::now() < until, "{live} of {} publishers live", self.children.len());
            std::thread::sleep(ASK_EVERY);
        }
    }

    /// Fails when one of them has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        for child in &mut self.children {
            let Some(status) = child.try_wait()? else { continue };
            let mut said = String::new();
            if let Some(stderr) = &mut child.stderr {
                stderr.read_to_string(&mut said)?;
            }
            bail!("a publisher ended with {status}: {}", said.trim());
        }
        Ok(())
    }
}

impl Drop for Programs {
    /// They take their leave, so that the next measurement finds no session of theirs.
    fn drop(&mut self) {
        for child in &self.children {
            let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        }
        let until = Instant::now() + LEAVE_WITHIN;
        for child in &mut self.children {
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < until {
                std::thread::sleep(ASK_EVERY);
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_file(&self.file);
    }
}

fn quiet(ffmpeg: &Path) -> Command {
    let mut command = Command::new(ffmpeg);
    command.args(["-nostdin", "-v", "error", "-y"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// 720p30 with noise, so that the encoder needs the bits it may have; no B-frames, which WHIP does not take.
fn encode(ffmpeg: &Path, bitrate: u64, file: &Path) -> Result<()> {
    let picture = format!("testsrc2=s=1280x720:r={FRAME_RATE},noise=alls=40:allf=t");
    let group = GROUP_FRAMES.to_string();
    let rate = bitrate.to_string();
    let output = quiet(ffmpeg)
        .args(["-f", "lavfi", "-i", &picture, "-f", "lavfi", "-i", "sine=r=48000"])
        .args(["-t", &FILE_SECONDS.to_string(), "-pix_fmt", "yuv420p", "-c:v", "libx264"])
        .args(["-preset", "ultrafast", "-profile:v", "baseline", "-bf", "0", "-g", &group])
        .args(["-keyint_min", &group, "-sc_threshold", "0", "-b:v", &rate, "-maxrate", &rate])
        .args(["-bufsize", &(bitrate / 2).to_string(), "-c:a", "libopus", "-ac", "2", "-b:a"])
        .arg(AUDIO_BITS_PER_SECOND.to_string())
        .arg(file)
        .output()
        .with_context(|| format!("{} starts", ffmpeg.display()))?;
    ensure!(output.status.success(), "ffmpeg: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Muxer, its options and the address.
fn target(protocol: Protocol, at: &Addresses, input: &Input, key: &StreamKey) -> Vec<String> {
    match protocol {
        Protocol::Rtmp => {
            vec!["-f".into(), "flv".into(), at.publish_urls(&input.id, key).rtmp]
        }
        Protocol::Srt => vec!["-f".into(), "mpegts".into(), at.publish_urls(&input.id, key).srt],
        // In the clear: ffmpeg takes no self-signed certificate for WHIP. Media are encrypted all the same.
        Protocol::Whip => vec![
            "-f".into(),
            "whip".into(),
            "-authorization".into(),
            key.expose().to_owned(),
            format!("http://{}/whip/{}", at.authority(at.http), input.id),
        ],
    }
}

/// What the node counts, as Prometheus reads it.
fn metrics(at: &Addresses) -> Result<String> {
    let address = at.authority(at.http);
    let address = address.to_socket_addrs()?.next().ok_or_else(|| anyhow!("nowhere"))?;
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Publishers of a protocol on all shards.
fn feeds(metrics: &str, protocol: Protocol) -> usize {
    let label = format!("protocol=\"{}\"", format!("{protocol:?}").to_lowercase());
    metrics
        .lines()
        .filter(|line| line.starts_with("weir_feeds{") && line.contains(&label))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishers_of_one_protocol_are_counted_on_all_shards() {
        let metrics = "# TYPE weir_feeds gauge\n\
            weir_feeds{shard=\"0\",protocol=\"rtmps\"} 7\n\
            weir_feeds{shard=\"0\",protocol=\"srt\"} 2\n\
            weir_feeds{shard=\"1\",protocol=\"srt\"} 3\n\
            weir_feeds_other{protocol=\"srt\"} 9\n";
        assert_eq!(feeds(metrics, Protocol::Srt), 5);
        assert_eq!(feeds(metrics, Protocol::Rtmp), 0);
    }
}
