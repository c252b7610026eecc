//! A viewer on one connection after the other: follows GOAWAY to the next address while the current connection still
//! brings media, leaves a relay that falls silent for another of the broadcast's addresses, and drops a connection when
//! the next one has taken over. What is given when is [`Splice`]'s decision, who is silent [`Fleet`]'s.

use std::pin::Pin;
use std::time::{Duration, Instant};

use super::connection::Connection;
use crate::cli::{Failure, PlayOptions};
use crate::client::{Event, Fleet, Leg, Outcome, PlaybackUrl, Splice, Step, Viewer};

/// How long the last packets of a connection may take to leave.
const GOODBYE: Duration = Duration::from_millis(500);

/// First pause before another try to move; doubles with each.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(8);

type Dialling = Pin<Box<dyn Future<Output = Result<Connection, Failure>>>>;

/// A connection and the viewer on it.
struct Seat {
    connection: Connection,
    viewer: Viewer,
    url: PlaybackUrl,
}

impl Seat {
    /// `expected` are the media tracks, as far as known.
    fn new(connection: Connection, url: PlaybackUrl, expected: Vec<String>) -> Self {
        let mut options = url.options(connection.draft());
        options.expected = expected;
        Self { connection, viewer: Viewer::new(options), url }
    }

    async fn leave(mut self) {
        self.viewer.close();
        self.viewer.drive(&mut self.connection, Instant::now());
        self.connection.leave(GOODBYE).await;
    }
}

/// Where the relay wants its viewers to go.
struct Destination {
    url: PlaybackUrl,
    /// When the current connection ends, as far as told.
    until: Option<Instant>,
    try_at: Option<Instant>,
    pause: Duration,
}

pub(super) struct Roam {
    splice: Splice,
    fleet: Fleet,
    current: Seat,
    next: Option<Seat>,
    dialling: Option<(PlaybackUrl, Dialling)>,
    destination: Option<Destination>,
    /// The current relay has not got the broadcast: what is dialled takes its place at once.
    is_redirected: bool,
    /// How watching ended while no viewer could say so.
    end: Option<Event>,
    /// How the current connection was lost; the end, unless another relay is found.
    lost: Option<Event>,
    options: PlayOptions,
    /// Why the last try to move failed.
    failure: Option<String>,
}

impl Roam {
    /// `urls` are all addresses of the broadcast, the one of `connection` first.
    pub(super) fn new(
        connection: Connection,
        url: PlaybackUrl,
        urls: Vec<PlaybackUrl>,
        options: PlayOptions,
    ) -> Self {
        Self {
            splice: Splice::default(),
            fleet: Fleet::new(urls, fastrand::u64(..), Instant::now()),
            current: Seat::new(connection, url, Vec::new()),
            next: None,
            dialling: None,
            destination: None,
            is_redirected: false,
            end: None,
            lost: None,
            options,
            failure: None,
        }
    }

    /// Moves made.
    pub(super) fn moves(&self) -> u64 {
        self.splice.moves()
    }

    /// Why it could not follow the relay's word.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// For people: over what it watches.
    pub(super) fn describe(&self) -> String {
        let Seat { connection, url, .. } = &self.current;
        format!("{} from {}", connection.describe(), url.authority())
    }

    /// Writes what the viewers have to say, and takes what they have to tell.
    pub(super) fn drive(&mut self) {
        let now = Instant::now();
        let due = self.destination.as_ref().and_then(|to| to.try_at);
        if due.is_some_and(|at| at <= now) {
            self.dial(now);
        }
        self.listen(now);
        self.current.viewer.drive(&mut self.current.connection, now);
        if let Some(next) = &mut self.next {
            next.viewer.drive(&mut next.connection, now);
        }
        self.take(now);
    }

    /// What it gives next.
    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.splice.poll_event().or_else(|| self.end.take())
    }

    /// Waits for the next thing to happen. Can be cancelled at any time.
    pub(super) async fn receive(&mut self) {
        let far = Instant::now() + Duration::from_hours(24);
        let wake = [
            self.current.viewer.poll_timeout(),
            self.next.as_ref().and_then(|next| next.viewer.poll_timeout()),
            self.splice.poll_timeout(),
            self.fleet.poll_timeout(),
            self.destination.as_ref().and_then(|to| to.try_at),
        ];
        let wake = wake.into_iter().flatten().min().unwrap_or(far);
        let Self { current, next, dialling, .. } = self;
        let dialled = async {
            match dialling {
                Some((_, dialling)) => dialling.await,
                None => std::future::pending().await,
            }
        };
        let second = async {
            match next {
                Some(Seat { connection, viewer, .. }) => connection.receive(viewer).await,
                None => std::future::pending().await,
            }
        };
        let answer = tokio::select! {
            () = current.connection.receive(&mut current.viewer) => None,
            () = second => None,
            answer = dialled => Some(answer),
            () = tokio::time::sleep_until(wake.into()) => {
                let now = Instant::now();
                self.current.viewer.handle_timeout(now);
                if let Some(next) = &mut self.next {
                    next.viewer.handle_timeout(now);
                }
                self.splice.handle_timeout(now);
                None
            }
        };
        if let Some(answer) = answer {
            self.dialled(answer);
        }
    }

    /// Closes what is open.
    pub(super) async fn leave(self) {
        if let Some(next) = self.next {
            next.leave().await;
        }
        self.current.leave().await;
    }

    /// Moves events of the viewers into the splice, and acts when it has decided.
    fn take(&mut self, now: Instant) {
        loop {
            if let Some(event) = self.current.viewer.poll_event() {
                match &event {
                    Event::GoAway { uri, timeout } => self.sent_away(uri, *timeout, now),
                    Event::Redirected { uri } => self.redirected(uri, now),
                    Event::Ended { .. } if self.is_lost() => {
                        self.lost = Some(event);
                        self.fleet.lost(now);
                        self.splice.doubt(true);
                        continue;
                    }
                    _ => {}
                }
                // It has nothing to say any more but that it closes.
                if !self.is_redirected {
                    self.splice.handle_event(Leg::Current, event);
                }
            } else if let Some(event) = self.next.as_mut().and_then(|next| next.viewer.poll_event())
            {
                match &event {
                    Event::Refused { reason, .. } => self.failure = Some(reason.clone()),
                    Event::Redirected { uri } => self.redirect_destination(uri),
                    _ => {}
                }
                self.splice.handle_event(Leg::Next, event);
            } else {
                self.settle(now);
                return;
            }
            self.settle(now);
        }
    }

    fn settle(&mut self, now: Instant) {
        match self.splice.poll_outcome() {
            Some(Outcome::Moved) => {
                let Some(next) = self.next.take() else { return };
                let authority = next.url.authority();
                self.fleet.moved(&next.url, now);
                let old = std::mem::replace(&mut self.current, next);
                tokio::spawn(old.leave());
                self.destination = None;
                self.lost = None;
                self.failure = None;
                tracing::info!(to = authority, "moved");
            }
            Some(Outcome::Failed) => {
                let to = self.destination.as_ref().map(|to| to.url.authority()).unwrap_or_default();
                self.failure.get_or_insert_with(|| format!("{to} brings no media in time"));
                self.dialling = None;
                if let Some(next) = self.next.take() {
                    tokio::spawn(next.leave());
                }
                if self.fleet.is_silent() {
                    self.destination = None;
                    self.fleet.failed(now);
                } else {
                    self.retry(now);
                }
            }
            None => {}
        }
    }

    /// Whether the current relay went without a word and there is another one to go to.
    fn is_lost(&self) -> bool {
        self.fleet.has_others() && self.current.connection.is_lost() && !self.is_redirected
    }

    /// Listens for the current relay, and looks for another one when it is silent.
    fn listen(&mut self, now: Instant) {
        let (heard, rtt) = self.current.connection.heard();
        match self.fleet.poll_step(heard, rtt, now) {
            // The connection keeps itself alive as often.
            None | Some(Step::Probe) => {}
            Some(Step::Doubt) => {
                tracing::info!(relay = self.current.url.authority(), "the relay is silent");
                self.splice.doubt(true);
            }
            Some(Step::Believe) => {
                tracing::info!(relay = self.current.url.authority(), "the relay is heard again");
                self.splice.doubt(false);
                if self.destination.is_none() {
                    self.splice.abandon();
                }
            }
            // A move that the relay ordered before it fell silent is as good.
            Some(Step::Dial(_)) if self.splice.is_moving() => self.fleet.answered(now),
            Some(Step::Dial(url)) => {
                self.destination = None;
                self.splice.begin(None, now);
                self.dialling = Some((*url.clone(), self.connect(*url)));
            }
            Some(Step::Abandon) => self.splice.abandon(),
            Some(Step::Over) => self.end = self.lost.take(),
        }
        self.settle(now);
    }

    fn sent_away(&mut self, uri: &str, timeout: Option<Duration>, now: Instant) {
        match self.current.url.moved(uri) {
            Ok(url) => {
                tracing::info!(to = url.authority(), ?timeout, "the relay is going away");
                let until = timeout.map(|timeout| now + timeout);
                let try_at = Some(now);
                self.destination = Some(Destination { url, until, try_at, pause: RETRY_MIN });
                self.dial(now);
            }
            Err(error) => {
                tracing::warn!(%error, "the relay is going away and names no address we can use");
                self.failure = Some(error.to_string());
            }
        }
    }

    /// REDIRECT. Before anything has come there is nothing to splice: the next relay takes this one's place.
    fn redirected(&mut self, uri: &str, now: Instant) {
        if self.splice.has_begun() {
            return self.sent_away(uri, None, now);
        }
        let moved = self.current.url.moved(uri);
        let url = match (moved, self.splice.follow_redirect()) {
            (Ok(url), true) => url,
            (Err(error), _) => return self.give_up(&error.to_string()),
            (_, false) => return self.give_up("redirected too often: no relay has the broadcast"),
        };
        tracing::info!(to = url.authority(), "redirected");
        self.is_redirected = true;
        self.dialling = Some((url.clone(), self.connect(url)));
    }

    /// Where we were to move sends us on.
    fn redirect_destination(&mut self, uri: &str) {
        let Some(next) = &self.next else { return };
        if let (Ok(url), Some(to)) = (next.url.moved(uri), &mut self.destination) {
            to.url = url;
        }
    }

    fn give_up(&mut self, reason: &str) {
        let code = weir_moqt::SessionCode::Internal.wire();
        self.end = Some(Event::Ended { code, reason: reason.to_owned() });
    }

    fn connect(&self, url: PlaybackUrl) -> Dialling {
        let (insecure, draft) = (self.options.insecure, self.options.draft);
        let several = self.fleet.has_others();
        Box::pin(async move {
            if several {
                Connection::open_probed(&url, insecure, draft).await
            } else {
                Connection::open(&url, insecure, draft).await
            }
        })
    }

    fn dial(&mut self, now: Instant) {
        let Some(to) = &mut self.destination else { return };
        to.try_at = None;
        let left = to.until.map(|until| until.saturating_duration_since(now));
        let url = to.url.clone();
        if !self.splice.begin(left, now) {
            self.failure = Some("too many moves within a minute".to_owned());
            return self.retry(now);
        }
        self.dialling = Some((url.clone(), self.connect(url)));
    }

    fn dialled(&mut self, answer: Result<Connection, Failure>) {
        let Some((url, _)) = self.dialling.take() else { return };
        if std::mem::take(&mut self.is_redirected) {
            match answer {
                Ok(connection) => {
                    self.fleet.moved(&url, Instant::now());
                    let seat = Seat::new(connection, url, Vec::new());
                    let old = std::mem::replace(&mut self.current, seat);
                    tokio::spawn(old.leave());
                }
                Err(failure) => self.give_up(&failure.to_string()),
            }
            return;
        }
        match answer {
            Ok(connection) => {
                self.fleet.answered(Instant::now());
                self.next = Some(Seat::new(connection, url, self.splice.media_tracks()));
            }
            Err(failure) => {
                tracing::warn!(to = url.authority(), %failure, "cannot move");
                self.failure = Some(failure.to_string());
                self.splice.abandon();
            }
        }
    }

    fn retry(&mut self, now: Instant) {
        if let Some(to) = &mut self.destination {
            to.try_at = Some(now + to.pause);
            to.pause = (to.pause * 2).min(RETRY_MAX);
        }
    }
}
