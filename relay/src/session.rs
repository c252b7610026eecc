//! What the relay keeps per MoQT session: its moqt state machine, what it may do, what it watches,
//! what it publishes, and control bytes that wait. It does not know other sessions or tracks.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use weir_moqt::data::SubgroupHeader;
use weir_moqt::{FetchTarget, OpenKey, Output, Params, RequestId, Token};

use crate::admission;
use crate::cache::Place;
use crate::fanout::{CONTROL_PRIORITY, Subscription};
use crate::fetch::Fetch;
use crate::grants::{Denied, Grants, Judge};
use crate::relay::Offer;
use crate::{Dir, Draft, Limits, Namespace, StreamId, TrackId, Transport, WriteError};

/// One MoQT session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) moqt: weir_moqt::Session,
    pub(crate) draft: Draft,
    pub(crate) is_set_up: bool,
    /// Sorted by [`Subscription::rank`] whenever it is driven.
    pub(crate) subscriptions: Vec<Subscription>,
    pub(crate) fetches: Vec<Fetch>,
    pub(crate) waiting: Vec<Waiting>,
    /// It waits to be told of the broadcast it came for.
    pub(crate) wants_announcement: bool,
    /// Accepted SUBSCRIBE_NAMESPACEs and SUBSCRIBE_TRACKSs.
    pub(crate) prefixes: Vec<Watched>,
    pub(crate) publisher: Option<Publisher>,
    pub(crate) grants: Grants,
    /// What its grants count against.
    pub(crate) places: Vec<admission::Place>,
    /// Set once the peer is known to be a relay of ours: by which key.
    pub(crate) node: Option<crate::node::NodeKeyHash>,
    pub(crate) setup_deadline: Instant,
    /// Told to go: closed then, if it is still here.
    pub(crate) leave_deadline: Option<Instant>,
    /// What the relay's timer set holds for this session.
    pub(crate) timer: Option<Instant>,
    pub(crate) closing: Option<Close>,
    /// Requests of it that were refused for their range filters, as counted so far.
    pub(crate) ranges_refused: u64,
    /// When it last lost groups for want of room, while that counts.
    pub(crate) lossy_since: Option<Instant>,
    /// Streams to reset at the next drive.
    pub(crate) resets: Vec<(StreamId, u32)>,
    opens: VecDeque<(OpenKey, Dir)>,
    control: Vec<ControlStream>,
    control_bytes: usize,
}

/// How a session ends.
#[derive(Clone, Debug)]
pub(crate) struct Close {
    pub(crate) code: u32,
    pub(crate) reason: String,
}

/// What a session asked to be told of under a prefix.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) request: RequestId,
    pub(crate) prefix: Namespace,
    /// It wants to hear of namespaces.
    pub(crate) namespaces: bool,
    /// It wants tracks to be offered, on these terms.
    pub(crate) tracks: Option<Box<Params>>,
    /// Tracks it was told it will not be offered.
    pub(crate) withheld: usize,
}

impl Watched {
    /// Whether a second request says again what this one asks for.
    pub(crate) fn overlaps(&self, prefix: &Namespace, namespaces: bool, tracks: bool) -> bool {
        let same = (self.namespaces && namespaces) || (self.tracks.is_some() && tracks);
        same && (self.prefix.starts_with(prefix) || prefix.starts_with(&self.prefix))
    }
}

/// A request that waits for its track to open.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) request: RequestId,
    pub(crate) track: TrackId,
    pub(crate) ask: Ask,
}

/// What a waiting request asks for.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Subscribe(Params),
    Fetch(FetchTarget, Params),
    Status,
}

/// A session on the publish path.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) access: Access,
    /// Its publish address as a namespace, `publish/<input_id>`: what it publishes there is the engine's.
    pub(crate) address: Namespace,
    /// Whether the input behind that address is its own.
    pub(crate) claim: Claim,
    /// PUBLISH_NAMESPACE requests that wait for the engine's answer.
    pub(crate) announced: Vec<(RequestId, Namespace)>,
    /// PUBLISH requests that wait for the same answer.
    pub(crate) offers: Vec<Offer>,
    /// Namespaces it holds because it offers tracks in them.
    pub(crate) implied: Vec<Namespace>,
    /// Our SUBSCRIBE_NAMESPACE to it, and the namespaces it holds by its answer.
    pub(crate) listing: Option<RequestId>,
    pub(crate) listed: Vec<Namespace>,
    /// Namespaces it announced and holds.
    pub(crate) held: Vec<(RequestId, Namespace)>,
    /// Tracks we subscribe to here.
    pub(crate) upstreams: Vec<(RequestId, TrackId)>,
    /// Its data streams.
    pub(crate) inbound: Vec<Inbound>,
    pub(crate) rate: Rate,
}

/// Whether a publisher may publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// The engine has been asked; refused at the deadline.
    Asked(Instant),
    Granted(Namespace),
    /// Nobody was asked: it may hold what is open to everybody.
    Unasked,
    /// A relay above us: it publishes what we subscribe to there, and is believed.
    Above,
}

/// Whether the input behind a publish address belongs to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It has not used the address: its right may be for the namespace alone.
    None,
    /// The engine has been asked for the input; refused at the deadline.
    Asked(Instant),
    /// It has the input.
    Held,
}

/// A data stream of a publisher.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) stream: StreamId,
    pub(crate) track: TrackId,
    pub(crate) header: SubgroupHeader,
    /// The subgroup it fills, once an object of it was taken.
    pub(crate) place: Option<Place>,
    pub(crate) object: Reading,
    /// Not wanted any more: read and dropped.
    pub(crate) ignored: bool,
}

/// What becomes of the payload of the object under way on a stream.
#[derive(Debug)]
pub(crate) enum Reading {
    /// Between objects, or of no use.
    Nothing,
    /// Into the cache, in fragments.
    Object {
        id: u64,
        /// Payload of the object that has not come yet.
        left: u64,
        /// Came, and not handed on yet.
        fragment: BytesMut,
    },
    /// It is here already: compared, not kept.
    Twin { id: u64, offset: usize },
}

impl Inbound {
    /// Reads on, but nobody wants it.
    pub(crate) fn ignore(&mut self) {
        self.ignored = true;
        self.object = Reading::Nothing;
    }
}

/// Counts what a publisher sends within one second (H31).
#[derive(Debug)]
pub(crate) struct Rate {
    since: Instant,
    objects: u32,
    bytes: u64,
}

impl Rate {
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, objects: 0, bytes: 0 }
    }

    /// Counts; false when the second's allowance is used up.
    pub(crate) fn count(
        &mut self,
        (objects, objects_max): (u32, u32),
        (bytes, bytes_max): (u64, u64),
        now: Instant,
    ) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        self.objects = self.objects.saturating_add(objects);
        self.bytes = self.bytes.saturating_add(bytes);
        self.objects <= objects_max && self.bytes <= bytes_max
    }
}

impl Publisher {
    /// One whose key the engine is asked about.
    pub(crate) fn new(now: Instant, deadline: Instant) -> Self {
        Self::with(Access::Asked(deadline), now)
    }

    /// One without a key.
    pub(crate) fn unasked(now: Instant) -> Self {
        Self::with(Access::Unasked, now)
    }

    fn with(access: Access, now: Instant) -> Self {
        Self {
            access,
            address: Namespace::default(),
            claim: Claim::None,
            announced: Vec::new(),
            offers: Vec::new(),
            implied: Vec::new(),
            listing: None,
            listed: Vec::new(),
            held: Vec::new(),
            upstreams: Vec::new(),
            inbound: Vec::new(),
            rate: Rate::new(now),
        }
    }

    /// The publisher side of a session with a relay above us.
    pub(crate) fn above(now: Instant) -> Self {
        Self { access: Access::Above, ..Self::new(now, now) }
    }

    pub(crate) fn is_above(&self) -> bool {
        self.access == Access::Above
    }

    /// When the engine must have answered, if it was asked for something: for leave, or for the input.
    pub(crate) fn answer_deadline(&self) -> Option<Instant> {
        match (&self.access, self.claim) {
            (Access::Asked(deadline), _) => Some(*deadline),
            (_, Claim::Asked(deadline)) => Some(deadline),
            _ => None,
        }
    }

    /// Whether `namespace` is its publish address and its key was good.
    pub(crate) fn contributes(&self, namespace: &Namespace) -> bool {
        matches!(self.access, Access::Granted(_))
            && !self.address.is_empty()
            && self.address == *namespace
    }

    /// Whether it may ask about `namespace`, as publishers do to learn their round trip.
    pub(crate) fn may_ask(&self, namespace: &Namespace) -> bool {
        self.may_hold(namespace) || self.contributes(namespace)
    }

    /// Whether it may publish `namespace`: the one it was granted, or one below.
    pub(crate) fn may_hold(&self, namespace: &Namespace) -> bool {
        matches!(&self.access, Access::Granted(granted) if namespace.starts_with(granted))
    }
}

/// Control bytes of one stream that the transport has not taken yet.
#[derive(Debug)]
struct ControlStream {
    stream: StreamId,
    queue: VecDeque<Bytes>,
    fin: bool,
    blocked: bool,
}

impl Session {
    pub(crate) fn new(moqt: weir_moqt::Session, setup_deadline: Instant) -> Self {
        Self {
            draft: moqt.draft(),
            moqt,
            is_set_up: false,
            subscriptions: Vec::new(),
            fetches: Vec::new(),
            waiting: Vec::new(),
            wants_announcement: false,
            prefixes: Vec::new(),
            publisher: None,
            grants: Grants::default(),
            places: Vec::new(),
            node: None,
            setup_deadline,
            leave_deadline: None,
            timer: None,
            closing: None,
            ranges_refused: 0,
            lossy_since: None,
            resets: Vec::new(),
            opens: VecDeque::new(),
            control: Vec::new(),
            control_bytes: 0,
        }
    }

    /// The next point in time at which this session must be looked at.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.closing.is_some() {
            return None;
        }
        let setup = (!self.is_set_up).then_some(self.setup_deadline);
        let access = self.publisher.as_ref().and_then(Publisher::answer_deadline);
        let unacknowledged = self.subscriptions.iter().filter_map(Subscription::deadline).min();
        let ours = [setup, access, self.grants.deadline(), self.leave_deadline, unacknowledged];
        ours.into_iter().flatten().min()
    }

    /// Whether this session may use `namespace`, by the tokens of the request or else by its own.
    pub(crate) fn authorise(
        &mut self,
        namespace: &Namespace,
        tokens: &[Token],
        judge: &Judge<'_>,
    ) -> Result<(), Denied> {
        if self.publisher.as_ref().is_some_and(|publisher| publisher.may_ask(namespace)) {
            return Ok(());
        }
        // A relay of ours checks its own viewers.
        if self.node.is_some() {
            return Ok(());
        }
        self.grants.authorise(namespace, tokens, judge)
    }

    /// Whether what it asked for under `namespace` stands, now that some grant is gone.
    pub(crate) fn may_use(&self, namespace: &Namespace) -> bool {
        self.node.is_some()
            || self.publisher.as_ref().is_some_and(|publisher| publisher.may_ask(namespace))
            || self.grants.covers(namespace)
    }

    /// A stream has room: its cursor, fetch or control queue goes on at the next drive.
    pub(crate) fn unblock(&mut self, stream: StreamId) {
        let _ = self.subscriptions.iter_mut().any(|sub| sub.unblock(stream))
            || self.fetches.iter_mut().any(|fetch| fetch.unblock(stream));
        if let Some(control) = self.control.iter_mut().find(|control| control.stream == stream) {
            control.blocked = false;
        }
    }

    /// Carries out what moqt asks for and writes waiting control bytes. Returns bytes written, or
    /// `None` when more waits than `control_bytes_max`.
    pub(crate) fn write_control<T: Transport>(
        &mut self,
        transport: &mut T,
        limits: &Limits,
    ) -> Option<u64> {
        loop {
            self.take_output(transport);
            let Some((key, dir)) = self.opens.front().copied() else { break };
            let Some(stream) = transport.open(dir) else { break };
            self.opens.pop_front();
            transport.set_priority(stream, CONTROL_PRIORITY);
            // An error here is a breach of our own contract with moqt; the session goes on without
            // the stream and its request times out at the peer.
            let _ = self.moqt.stream_opened(key, stream);
        }
        let mut written = 0;
        for control in &mut self.control {
            written += control.write(transport);
        }
        self.control_bytes -= written as usize;
        self.control.retain(|control| !control.queue.is_empty() || control.fin);
        (self.control_bytes <= limits.control_bytes_max).then_some(written)
    }

    fn take_output<T: Transport>(&mut self, transport: &mut T) {
        while let Some(output) = self.moqt.poll_output() {
            match output {
                Output::Open { key, dir } => self.opens.push_back((key, dir)),
                Output::Write { stream, data, fin } => {
                    if !self.control.iter().any(|control| control.stream == stream) {
                        // The peer may have opened it: an answer that is repaired after all media comes too late.
                        transport.set_priority(stream, CONTROL_PRIORITY);
                    }
                    self.queue_control(stream, data, fin);
                }
                Output::Reset { stream, code } => {
                    self.forget_control(stream);
                    transport.reset(stream, code);
                }
                Output::Stop { stream, code } => transport.stop(stream, code),
            }
        }
    }

    fn queue_control(&mut self, stream: StreamId, data: Bytes, fin: bool) {
        self.control_bytes += data.len();
        let at = self.control.iter().position(|control| control.stream == stream);
        let at = at.unwrap_or_else(|| {
            let queue = VecDeque::new();
            self.control.push(ControlStream { stream, queue, fin: false, blocked: false });
            self.control.len() - 1
        });
        let Some(control) = self.control.get_mut(at) else { return };
        if !data.is_empty() {
            control.queue.push_back(data);
        }
        control.fin |= fin;
    }

    fn forget_control(&mut self, stream: StreamId) {
        if let Some(at) = self.control.iter().position(|control| control.stream == stream) {
            let gone = self.control.remove(at);
            self.control_bytes -= gone.queue.iter().map(Bytes::len).sum::<usize>();
        }
    }
}

impl ControlStream {
    fn write<T: Transport>(&mut self, transport: &mut T) -> u64 {
        let mut written = 0;
        while !self.blocked && !self.queue.is_empty() {
            match transport.write(self.stream, self.queue.make_contiguous()) {
                Ok(taken) => written += taken as u64,
                Err(WriteError::Blocked) => {}
                Err(WriteError::Stopped(_) | WriteError::Closed) => {
                    // Nobody reads answers here any more.
                    written += self.queue.drain(..).map(|chunk| chunk.len() as u64).sum::<u64>();
                    self.fin = false;
                    return written;
                }
            }
            while self.queue.front().is_some_and(Bytes::is_empty) {
                self.queue.pop_front();
            }
            self.blocked = !self.queue.is_empty();
        }
        if self.queue.is_empty() && self.fin {
            transport.finish(self.stream);
            self.fin = false;
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a viewer of a catalog, sound and pictures costs in structures of ours beside weir-moqt's: the goal
    /// is 24 KB idle in all, of which QUIC is the larger part.
    #[test]
    fn a_viewer_of_three_tracks_costs_under_four_kilobytes_of_our_structures() {
        let idle = size_of::<Session>() + 3 * size_of::<Subscription>();
        let active = idle + 3 * 2 * crate::fanout::CURSOR_BYTES;
        eprintln!("idle {idle}, with two groups of each track under way {active} bytes");
        assert!(idle < 3 * 1024, "{idle}");
        assert!(active < 4 * 1024, "{active}");
    }
}
