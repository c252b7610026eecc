//! `weir play`: watches one broadcast, writes it into one fragmented MP4 if asked to, and says at the end what arrived
//! and how late. The viewer itself is [`crate::client`]; this is its connection, its clock and its output.

pub(crate) mod connection;
mod recording;
mod report;
mod roam;
mod trust;

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Failure, PlayOptions, PlayOutput};
use crate::client::{Event, PlaybackUrl};
use connection::Connection;
use recording::Recording;
use report::Report;
use roam::Roam;

/// How often the progress line moves.
const TICK: Duration = Duration::from_millis(250);

/// Plays until the broadcast, the wanted duration or the operator ends it.
pub fn run(options: &PlayOptions) -> Result<(), Failure> {
    let url = PlaybackUrl::parse(&options.url).map_err(|error| {
        Failure::new(error.to_string())
            .help("a playback URL is https://HOST:PORT/playback/ID?tok=TOKEN; `weir token mint ID` prints one")
            .usage()
    })?;
    let others = options.also.iter().map(|uri| url.moved(uri));
    let urls = std::iter::once(Ok(url.clone())).chain(others).collect::<Result<Vec<_>, _>>();
    let urls = urls.map_err(|error| {
        Failure::new(error.to_string())
            .help("--also takes https://HOST:PORT or moqt://HOST:PORT")
            .usage()
    })?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start a runtime: {error}")))?
        .block_on(play(options, urls))
}

async fn play(options: &PlayOptions, mut urls: Vec<PlaybackUrl>) -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let recording = match &options.output {
        PlayOutput::Discard => None,
        PlayOutput::File(path) => Some(Recording::to_file(path)?),
        PlayOutput::Stdout => Some(Recording::new(Box::new(std::io::stdout()))),
    };
    let progress = progress();
    let connected = tokio::select! {
        connected = connect(&urls, options, &progress) => connected,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    let (connection, at) = connected?;
    urls.rotate_left(at);
    let Some(url) = urls.first().cloned() else { return Ok(()) };
    let roam = Roam::new(connection, url, urls, options.clone());
    progress.set_message(format!("watching over {}", roam.describe()));
    let mut playback =
        Playback { roam, report: Report::default(), recording, progress, refusal: None, end: None };
    let outcome = playback.watch(options, &mut interrupt, &mut terminate).await;
    playback.progress.finish_and_clear();
    let Playback { roam, report, recording, .. } = playback;
    let (moves, last) = (roam.moves(), roam.describe());
    Box::pin(roam.leave()).await;
    // The table is of use after a failure, too, unless it says nothing.
    if outcome.is_ok() || !report.is_empty() {
        print(&report, moves, &last, options);
    }
    outcome?;
    match &recording {
        Some(recording) => recording.verdict(),
        None => Ok(()),
    }
}

/// A connection to the first address that answers, and its place.
async fn connect(
    urls: &[PlaybackUrl],
    options: &PlayOptions,
    progress: &ProgressBar,
) -> Result<(Connection, usize), Failure> {
    let mut failure = Failure::new("no address");
    for (at, url) in urls.iter().enumerate() {
        progress.set_message(format!("connecting to {}", url.authority()));
        let opened = if urls.len() > 1 {
            Connection::open_probed(url, options.insecure, options.draft).await
        } else {
            Connection::open(url, options.insecure, options.draft).await
        };
        match opened {
            Ok(connection) => return Ok((connection, at)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

struct Playback {
    roam: Roam,
    report: Report,
    recording: Option<Recording>,
    progress: ProgressBar,
    /// Why a track is not there.
    refusal: Option<String>,
    end: Option<(u32, String)>,
}

impl Playback {
    async fn watch(
        &mut self,
        options: &PlayOptions,
        interrupt: &mut tokio::signal::unix::Signal,
        terminate: &mut tokio::signal::unix::Signal,
    ) -> Result<(), Failure> {
        let far = Duration::from_hours(365 * 24);
        let stop = tokio::time::sleep(options.duration.unwrap_or(far));
        tokio::pin!(stop);
        loop {
            self.roam.drive();
            if !self.drain()? {
                return Ok(());
            }
            if let Some((code, reason)) = self.end.take() {
                return self.ended(code, &reason);
            }
            tokio::select! {
                () = self.roam.receive() => {}
                () = &mut stop => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
            }
        }
    }

    /// Takes what the viewer has to tell. False when nobody reads the output any more.
    fn drain(&mut self) -> Result<bool, Failure> {
        while let Some(event) = self.roam.poll_event() {
            match event {
                Event::Catalog(catalog) => {
                    if let Some(recording) = &mut self.recording {
                        recording.handle_catalog(&catalog)?;
                    }
                }
                Event::Object(object) => {
                    self.report.count(&object, wall());
                    if let Some(recording) = &mut self.recording
                        && !recording.handle_object(&object)?
                    {
                        return Ok(false);
                    }
                    self.progress.set_message(self.report.line());
                }
                Event::Skipped { track, groups } => {
                    self.report.skipped(&track, groups);
                    if let Some(recording) = &mut self.recording {
                        recording.handle_gap(&track);
                    }
                }
                Event::Refused { track, reason, code } => {
                    tracing::warn!(%track, ?code, reason, "track refused");
                    self.refusal.get_or_insert(format!("{track}: {reason}"));
                }
                Event::Ended { code, reason } => self.end = Some((code, reason)),
                _ => {}
            }
        }
        if let Some(recording) = &mut self.recording {
            return recording.flush();
        }
        Ok(true)
    }

    fn ended(&self, code: u32, reason: &str) -> Result<(), Failure> {
        if code != 0 {
            let failure = match self.roam.failure() {
                Some(why) => Failure::new(format!("{reason}; could not move: {why}")),
                None => Failure::new(reason),
            };
            return Err(if reason.starts_with("auth_failed") {
                failure.help("`weir token mint ID` makes a fresh token")
            } else {
                failure
            });
        }
        match &self.refusal {
            Some(refusal) if self.report.is_empty() => Err(Failure::new(refusal.clone())
                .help("publish to the input first; `weir input list` shows what there is")),
            _ => Ok(()),
        }
    }
}

fn print(report: &Report, moves: u64, last: &str, options: &PlayOptions) {
    let mut text = report.table();
    if moves > 0 {
        let times = if moves == 1 { "once" } else { "times" };
        let count = if moves == 1 { String::new() } else { format!("{moves} ") };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "moved {count}{times}, in the end {last}");
    }
    // A closed pipe is no failure of playing.
    let _ = if options.output == PlayOutput::Stdout {
        std::io::stderr().write_all(text.as_bytes())
    } else {
        std::io::stdout().write_all(text.as_bytes())
    };
}

/// A line that moves on a terminal and is not there otherwise.
fn progress() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn no_signals(error: std::io::Error) -> Failure {
    Failure::new(format!("cannot listen for signals: {error}"))
}
