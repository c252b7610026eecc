//! `weir publish`: a fragmented MP4, from a file or from a pipe, to an input over MoQT in real time. The publisher itself
//! is [`crate::client::Contributor`]; this is its source, its connection and its clock.

use std::io::Read as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use weir_packager::fmp4::{Event, Looper, Reader};
use weir_packager::{Sample, TrackConfig, TrackId};

use crate::cli::{Failure, PublishOptions, PublishSource};
use crate::client::{Contributor, PublishUrl, Told};
use crate::play::connection::Connection;

/// Read from the pipe at once, and waiting to be published: 16 x 64 KiB = 1 MiB.
const PIECE_BYTES: usize = 64 * 1024;
const PIECES_MAX: usize = 16;
/// The pipe is not read on while more than this waits for the path: half a second at 16 Mb/s.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// How long the last bytes and the goodbye may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// Publishes until the source is over or the operator ends it.
pub fn run(options: &PublishOptions) -> Result<(), Failure> {
    let url = PublishUrl::parse(&options.url).map_err(|error| {
        Failure::new(error.to_string())
            .help("a publish URL is https://HOST:PORT/publish/INPUT?sk=KEY; `weir input create --ingest fmp4` prints one")
            .usage()
    })?;
    let source = Source::open(options)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start a runtime: {error}")))?
        .block_on(publish(options, &url, source))
}

/// Where samples come from.
enum Source {
    /// A whole file: samples with the time each is due.
    File { looper: Box<Looper>, once: Option<Duration> },
    /// A pipe: pieces as they come.
    Pipe { pieces: mpsc::Receiver<Bytes>, reader: Box<Reader>, tracks: Vec<TrackConfig> },
}

impl Source {
    fn open(options: &PublishOptions) -> Result<Self, Failure> {
        match &options.source {
            PublishSource::File(path) => {
                let shown = path.display();
                let file = std::fs::read(path)
                    .map_err(|error| Failure::new(format!("cannot read {shown}: {error}")))?;
                let looper = Looper::new(&file).map_err(|error| {
                    Failure::new(format!("{shown} is no fragmented MP4: {error}")).help(
                        "ffmpeg -i FILE -c copy -movflags +frag_keyframe+empty_moov+default_base_moof OUT.mp4 makes one",
                    )
                })?;
                let once = (!options.looped).then(|| looper.length());
                Ok(Self::File { looper: Box::new(looper), once })
            }
            PublishSource::Stdin => {
                let (sender, pieces) = mpsc::channel(PIECES_MAX);
                std::thread::spawn(move || {
                    let mut stdin = std::io::stdin().lock();
                    let mut piece = vec![0; PIECE_BYTES];
                    while let Ok(length @ 1..) = stdin.read(&mut piece) {
                        let piece = Bytes::copy_from_slice(&piece[..length]);
                        if sender.blocking_send(piece).is_err() {
                            return;
                        }
                    }
                });
                Ok(Self::Pipe { pieces, reader: Box::default(), tracks: Vec::new() })
            }
        }
    }
}

async fn publish(
    options: &PublishOptions,
    url: &PublishUrl,
    source: Source,
) -> Result<(), Failure> {
    let no_signals = |error| Failure::new(format!("cannot listen for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut connection = Connection::open(url.address(), options.insecure, options.draft).await?;
    let client = url.address().options(connection.draft());
    let packaging = weir_packager::Options {
        first_group: u64::try_from(wall().as_millis()).unwrap_or_default(),
        ..weir_packager::Options::default()
    };
    let mut contributor = Contributor::new(&client, packaging);
    let mut pace = Pace::new(source, Instant::now());
    let mut stopping: Option<Instant> = None;
    let outcome = loop {
        contributor.drive(&mut connection);
        if let Some(outcome) = told(&mut contributor) {
            break outcome;
        }
        let until = [contributor.poll_timeout(), stopping].into_iter().flatten().min();
        let until = until.unwrap_or_else(|| Instant::now() + FAREWELL);
        tokio::select! {
            () = connection.receive(&mut contributor) => {}
            step = pace.next(), if stopping.is_none() && contributor.waiting_bytes() < WAITING_BYTES_MAX => {
                if !step.map_or(Ok(false), |step| feed(step, &mut contributor))? {
                    contributor.handle_end();
                    stopping = Some(Instant::now() + FAREWELL);
                }
            }
            () = tokio::time::sleep_until(until.into()) => {
                contributor.handle_timeout(Instant::now());
                if stopping.is_some_and(|at| at <= Instant::now()) {
                    contributor.close();
                }
            }
            _ = interrupt.recv() => contributor.close(),
            _ = terminate.recv() => contributor.close(),
        }
    };
    connection.leave(FAREWELL).await;
    outcome
}

fn told(contributor: &mut Contributor) -> Option<Result<(), Failure>> {
    while let Some(told) = contributor.poll_told() {
        match told {
            Told::Accepted { track } => tracing::info!(%track, "published"),
            Told::Refused { track, reason } => {
                return Some(Err(Failure::new(format!("{track} is refused: {reason}"))));
            }
            Told::GoAway { .. } => {
                tracing::warn!("the node is going away: publish again at its new address");
            }
            Told::Ended { code: 0, .. } => return Some(Ok(())),
            Told::Ended { reason, .. } => {
                let failure = Failure::new(reason.clone());
                return Some(Err(if reason.starts_with("auth_failed") {
                    failure.help(
                        "copy the key again; `weir input create --ingest fmp4` makes an input",
                    )
                } else {
                    failure
                }));
            }
        }
    }
    None
}

/// What the source yields.
enum Step {
    Tracks(Vec<TrackConfig>),
    Sample(Sample),
    Broken(weir_packager::fmp4::Error),
}

fn feed(step: Step, contributor: &mut Contributor) -> Result<bool, Failure> {
    let now = Instant::now();
    let taken = match step {
        Step::Tracks(tracks) => {
            tracks.into_iter().try_for_each(|track| contributor.handle_track(track, now))
        }
        Step::Sample(sample) => contributor.handle_sample(sample, wall(), now),
        Step::Broken(error) => {
            return Err(Failure::new(format!("the source is no fragmented MP4: {error}")));
        }
    };
    taken.map_err(|error| Failure::new(format!("cannot publish this: {error}")))?;
    Ok(true)
}

/// Gives samples when they are due. Can be cancelled at any time.
struct Pace {
    source: Source,
    begun: Instant,
    announced: bool,
    /// The sample that waits for its time.
    waiting: Option<(Duration, Sample)>,
}

impl Pace {
    fn new(source: Source, begun: Instant) -> Self {
        Self { source, begun, announced: false, waiting: None }
    }

    async fn next(&mut self) -> Option<Step> {
        match &mut self.source {
            Source::File { looper, once } => {
                if !std::mem::replace(&mut self.announced, true) {
                    return Some(Step::Tracks(looper.tracks().to_vec()));
                }
                if self.waiting.is_none() {
                    let timed = looper.next()?;
                    if once.is_some_and(|length| timed.due >= length) {
                        return None;
                    }
                    self.waiting = Some((timed.due, timed.sample));
                }
                let due = self.begun + self.waiting.as_ref()?.0;
                tokio::time::sleep_until(due.into()).await;
                self.waiting.take().map(|(_, sample)| Step::Sample(sample))
            }
            Source::Pipe { pieces, reader, tracks } => loop {
                match reader.poll_event() {
                    Some(Event::Tracks(found)) => {
                        tracks.clone_from(&found);
                        return Some(Step::Tracks(found));
                    }
                    Some(Event::Sample { sample, .. }) if knows(tracks, sample.track) => {
                        return Some(Step::Sample(sample));
                    }
                    Some(Event::Sample { .. }) => continue,
                    None => {}
                }
                let piece = pieces.recv().await?;
                if let Err(error) = reader.handle_input(&piece) {
                    return Some(Step::Broken(error));
                }
            },
        }
    }
}

fn knows(tracks: &[TrackConfig], track: TrackId) -> bool {
    tracks.iter().any(|known| known.track == track)
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
