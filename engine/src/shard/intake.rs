//! Publishers that bring fragmented MP4 over MoQT: each has an [`Intake`] on the shard of its session, which checks what
//! arrives, and a feed on the shard its input is pinned to. Between the two go letters, in order, over the command rings;
//! on one shard they take the same way without a ring. It owns who hears what of a publisher's fault; what a chunk holds
//! is the intake's affair.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_feed::fmp4::{self, Intake, Taken};
use weir_feed::{self as feed, EndReason};
use weir_moqt::Namespace;
use weir_relay::{
    Event as RelayEvent, Forwarding, ObjectIn, RefuseReason, SessionCode, SessionId, TrackId,
};

use super::publisher::{FeedId, Opening, Policy, Protocol, Rank, Refused};
use super::{Shard, earlier};
use crate::guard::guarded;

/// A publisher session whose key is good.
#[derive(Clone, Debug)]
pub struct Admission {
    /// Which input.
    pub input_id: String,
    /// Where its objects go.
    pub namespace: Namespace,
    /// The shard the input is pinned to.
    pub shard: u16,
    /// How its publishers follow each other.
    pub policy: Policy,
    /// From where.
    pub peer: Option<IpAddr>,
}

/// From the shard of a session to that of its input, and back.
#[derive(Debug)]
pub(super) enum Letter {
    /// A publisher wants its input.
    Open(SessionId, Box<Admission>),
    /// What its intake found.
    Media(SessionId, feed::Event),
    /// An object of a track without media, by the track's name.
    Other(SessionId, Bytes, Box<ObjectIn>),
    /// Nothing more comes of such a track.
    OtherEnded(SessionId, Bytes),
    /// The publisher has gone.
    Close(SessionId),
    /// Back: it has the input, so what it asked for is granted.
    Opened(SessionId),
    /// Back: it cannot have the input.
    Refused(SessionId, Refused),
    /// Back: another one has the input now.
    Replaced(SessionId),
}

/// The publishers of one shard's sessions, and the feeds of its inputs.
#[derive(Default)]
pub(super) struct Intakes {
    sessions: BTreeMap<SessionId, Publishing>,
    /// Whose a track at a publish address is.
    tracks: HashMap<TrackId, SessionId>,
    /// Feeds of inputs pinned here, by shard and session of their publisher.
    feeds: BTreeMap<(u16, SessionId), (String, FeedId)>,
    letters: VecDeque<(u16, Letter)>,
    /// No intake has a deadline before this.
    due: Option<Instant>,
    /// Publishers refused for what they sent.
    pub(super) faults: u64,
}

/// A publisher of this shard.
struct Publishing {
    admission: Admission,
    intake: Intake,
    /// Its input was asked for. One that fills the input's namespace by itself never does.
    claimed: bool,
    keys: BTreeMap<TrackId, (u64, Bytes)>,
    others: BTreeSet<Bytes>,
    next_key: u64,
}

impl Intakes {
    pub(super) fn admit(&mut self, session: SessionId, admission: Admission) {
        let intake = Intake::new(fmp4::Limits::default());
        let publishing = Publishing {
            admission,
            intake,
            claimed: false,
            keys: BTreeMap::new(),
            others: BTreeSet::new(),
            next_key: 0,
        };
        self.sessions.insert(session, publishing);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Whether something waits to be read on this shard.
    pub(super) fn has_letters(&self) -> bool {
        !self.letters.is_empty()
    }
}

impl Shard {
    /// Events of publish addresses; true when this was one.
    pub(super) fn intake_event(&mut self, event: &RelayEvent, now: Instant) -> bool {
        match event {
            RelayEvent::AddressClaimed { session } => {
                self.claim_input(*session);
                true
            }
            RelayEvent::Contributed { session, track, name } => {
                self.open_contribution(*session, *track, name);
                true
            }
            RelayEvent::ContributionAnnounced { session } => {
                for name in fmp4::CATALOGS {
                    let name = Bytes::from_static(name.as_bytes());
                    if let Some(track) = self.relay.ask_contribution(*session, &name) {
                        self.open_contribution(*session, track, &name);
                    }
                }
                true
            }
            RelayEvent::Exported { track, object } => {
                self.at_intake(*track, now, |intake, key, _| {
                    let taken = intake.handle_object(
                        key,
                        object.group,
                        object.object,
                        &object.payload,
                        now,
                    )?;
                    // A datagram is a group of its own as far as order goes.
                    if object.end_of_group || object.forwarding == Forwarding::Datagram {
                        intake.handle_group_end(key, object.group, now)?;
                    }
                    Ok((taken == Taken::Other).then(|| Some(Box::new(object.clone()))))
                })
            }
            RelayEvent::ExportedEnd { track, end } => {
                self.at_intake(*track, now, |intake, key, _| {
                    intake.handle_group_end(key, end.group, now).map(|()| None)
                })
            }
            RelayEvent::ExportEnded { track, .. } => {
                let known = self.at_intake(*track, now, |intake, key, other| {
                    intake.handle_track_end(key, now)?;
                    Ok(other.then_some(None))
                });
                self.forget_contribution(*track);
                known
            }
            RelayEvent::TrackRefused { id, .. } => self.forget_contribution(*id),
            RelayEvent::TrackOpened { id, .. } => self.intakes.tracks.contains_key(id),
            _ => false,
        }
    }

    /// A publisher is told that it may publish only when the shard of its input has given it: one that is refused has
    /// never been live.
    fn claim_input(&mut self, session: SessionId) {
        let Some(publishing) = self.intakes.sessions.get_mut(&session) else { return };
        publishing.claimed = true;
        let admission = publishing.admission.clone();
        self.post(admission.shard, Letter::Open(session, Box::new(admission)));
    }

    fn open_contribution(&mut self, session: SessionId, track: TrackId, name: &Bytes) {
        let Some(publishing) = self.intakes.sessions.get_mut(&session) else { return };
        let key = publishing.next_key;
        publishing.next_key += 1;
        publishing.intake.open_track(key, name);
        publishing.keys.insert(track, (key, name.clone()));
        self.intakes.tracks.insert(track, session);
    }

    fn forget_contribution(&mut self, track: TrackId) -> bool {
        let Some(session) = self.intakes.tracks.remove(&track) else { return false };
        if let Some(publishing) = self.intakes.sessions.get_mut(&session)
            && let Some((_, name)) = publishing.keys.remove(&track)
        {
            publishing.others.remove(&name);
        }
        true
    }

    /// Lets the intake of a track work and posts what comes of it: `Some(Some(_))` is an object that is not media,
    /// `Some(None)` the end of a track of such. False when the track is nobody's.
    fn at_intake(
        &mut self,
        track: TrackId,
        now: Instant,
        work: impl FnOnce(&mut Intake, u64, bool) -> Result<Option<Option<Box<ObjectIn>>>, fmp4::Error>,
    ) -> bool {
        let Some(session) = self.intakes.tracks.get(&track).copied() else { return false };
        let Some(publishing) = self.intakes.sessions.get_mut(&session) else { return true };
        let Some((key, name)) = publishing.keys.get(&track).cloned() else { return true };
        let other = publishing.others.contains(&name);
        let (intake, shard) = (&mut publishing.intake, publishing.admission.shard);
        match guarded(|| work(intake, key, other)) {
            Ok(Ok(found)) => {
                match found {
                    Some(Some(object)) => {
                        publishing.others.insert(name.clone());
                        self.post(shard, Letter::Other(session, name, object));
                    }
                    Some(None) => self.post(shard, Letter::OtherEnded(session, name)),
                    None => {}
                }
                self.post_media(session);
            }
            Ok(Err(error)) => self.fault(session, &error, now),
            Err(_) => {
                self.panics += 1;
                self.close_contributor(session, SessionCode::Internal, "internal", now);
            }
        }
        true
    }

    /// Sends what an intake has to the input's shard, and follows its deadline.
    fn post_media(&mut self, session: SessionId) {
        loop {
            let Some(publishing) = self.intakes.sessions.get_mut(&session) else { return };
            earlier(&mut self.intakes.due, publishing.intake.poll_timeout());
            let Some(event) = publishing.intake.poll_event() else { return };
            let shard = publishing.admission.shard;
            self.post(shard, Letter::Media(session, event));
        }
    }

    /// A publisher sent what cannot be used: it is told and goes, and nobody else notices.
    fn fault(&mut self, session: SessionId, error: &fmp4::Error, now: Instant) {
        self.intakes.faults += 1;
        if let Some(publishing) = self.intakes.sessions.get(&session) {
            let event = feed::Event::End { reason: error.end_reason() };
            self.post(publishing.admission.shard, Letter::Media(session, event));
        }
        self.close_contributor(session, SessionCode::ProtocolViolation, &error.to_string(), now);
    }

    fn close_contributor(
        &mut self,
        session: SessionId,
        code: SessionCode,
        reason: &str,
        now: Instant,
    ) {
        self.leave_intake(session);
        self.relay.close_publisher(session, code, reason, now);
    }

    /// A session is over, closed with `code`: its input hears it.
    pub(super) fn contributor_closed(&mut self, session: SessionId, code: u32) {
        if let Some(publishing) = self.intakes.sessions.get(&session)
            && publishing.claimed
        {
            let shard = publishing.admission.shard;
            // Without a word it is a broken connection.
            let reason = if code == 0 { EndReason::Unpublished } else { EndReason::Disconnected };
            self.post(shard, Letter::Media(session, feed::Event::End { reason }));
        }
        self.leave_intake(session);
    }

    fn leave_intake(&mut self, session: SessionId) {
        let Some(publishing) = self.intakes.sessions.remove(&session) else { return };
        for track in publishing.keys.keys() {
            self.intakes.tracks.remove(track);
        }
        if publishing.claimed {
            self.post(publishing.admission.shard, Letter::Close(session));
        }
    }

    fn post(&mut self, shard: u16, letter: Letter) {
        if shard == self.steering.shard {
            self.intakes.letters.push_back((shard, letter));
        } else {
            self.exchange.post(shard, letter);
        }
    }

    /// Deadlines of intakes, and letters that have come.
    pub(super) fn intake_turn(&mut self, now: Instant, wall: Duration) {
        if self.intakes.due.is_some_and(|due| due <= now) {
            self.intakes.due = None;
            let sessions: Vec<SessionId> = self.intakes.sessions.keys().copied().collect();
            for session in sessions {
                let Some(publishing) = self.intakes.sessions.get_mut(&session) else { continue };
                match publishing.intake.handle_timeout(now) {
                    Ok(()) => self.post_media(session),
                    Err(error) => self.fault(session, &error, now),
                }
            }
        }
        while let Some((from, letter)) =
            self.intakes.letters.pop_front().or_else(|| self.exchange.next_letter())
        {
            self.letter(from, letter, now, wall);
        }
    }

    fn letter(&mut self, from: u16, letter: Letter, now: Instant, wall: Duration) {
        match letter {
            Letter::Open(session, admission) => {
                let Admission { input_id, namespace, policy, peer, .. } = &*admission;
                let opening = Opening {
                    input_id,
                    namespace,
                    policy,
                    rank: Rank::Encoder,
                    protocol: Protocol::Moqt,
                    peer: *peer,
                };
                match self.open_feed(&opening, now, wall) {
                    Ok(feed) => {
                        let held = (admission.input_id, feed);
                        self.intakes.feeds.insert((from, session), held);
                        self.post(from, Letter::Opened(session));
                    }
                    Err(refused) => self.post(from, Letter::Refused(session, refused)),
                }
            }
            Letter::Media(session, event) => {
                let Some((input, feed)) = self.intakes.feeds.get(&(from, session)).cloned() else {
                    return;
                };
                if !self.handle_media(&input, feed, event, now, wall) {
                    self.intakes.feeds.remove(&(from, session));
                    self.post(from, Letter::Replaced(session));
                }
            }
            Letter::Other(session, name, object) => {
                self.at_feed(from, session, |broadcast, feed, relay| {
                    broadcast.handle_other(feed, &name, *object, relay, now);
                });
            }
            Letter::OtherEnded(session, name) => {
                self.at_feed(from, session, |broadcast, feed, relay| {
                    broadcast.end_other(feed, &name, relay, now);
                });
            }
            Letter::Close(session) => {
                let Some((input, feed)) = self.intakes.feeds.remove(&(from, session)) else {
                    return;
                };
                self.close_feed(&input, feed, now, wall);
            }
            Letter::Opened(session) => {
                let relay = &mut self.relay;
                let done = guarded(|| relay.grant_address(session, now, wall));
                if let (Err(_), Some(conn)) = (done, self.sessions.get(&session).copied()) {
                    self.end_after_panic(conn, session, now);
                }
            }
            Letter::Refused(session, refused) => {
                let reason = match refused {
                    Refused::Busy => RefuseReason::Busy,
                    Refused::Capacity => RefuseReason::Capacity,
                    Refused::Draining => RefuseReason::Draining,
                };
                let reason = reason.to_string();
                self.close_contributor(session, SessionCode::Unauthorized, &reason, now);
            }
            Letter::Replaced(session) => {
                let reason = "input_busy: another publisher took over";
                self.close_contributor(session, SessionCode::Unauthorized, reason, now);
            }
        }
    }

    fn at_feed(
        &mut self,
        from: u16,
        session: SessionId,
        work: impl FnOnce(&mut super::broadcast::Broadcast, FeedId, &mut weir_relay::Relay),
    ) {
        if let Some((input, feed)) = self.intakes.feeds.get(&(from, session))
            && let Some(broadcast) = self.broadcasts.get_mut(input)
        {
            work(broadcast, *feed, &mut self.relay);
        }
    }
}
