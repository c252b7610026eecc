//! One MoQT session, either role: the control plane of a connection and its inbound data streams. This
//! file owns the state and the doors in and out; streams are sorted in `inbound`, messages obeyed in
//! `messages`, the books kept in `requests`, what draft 14 says in full in `in_full`, the owner's wishes in `commands`, its answers in `answers`, data read in `streams`. Outbound data streams are the caller's.

mod answers;
mod commands;
mod event;
mod framer;
mod ids;
mod in_full;
mod inbound;
mod messages;
mod requests;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};

pub use event::{Event, Output, SetupOptions};

use crate::draft::{Codec, Control, Draft, Feature, Rules};
use crate::error::{CommandError, ResetCode, SessionError};
use crate::limits::{Counters, Limits};
use crate::message::{About, Message, Setup};
use crate::model::{Dir, GroupOrder, OpenKey, RequestId, RequestKind, Role, StreamId, Transport};
use crate::token::TokenCache;
use framer::Framer;
use ids::IdSet;
use in_full::Memory;
use streams::DataStream;

/// Key of our control stream; request streams use their request id.
const CONTROL_KEY: OpenKey = OpenKey(u64::MAX);

/// A session. See the crate for how to drive it.
#[derive(Debug)]
pub struct Session {
    draft: Draft,
    role: Role,
    transport: Transport,
    limits: Limits,
    counters: Counters,
    outputs: VecDeque<Output>,
    events: VecDeque<Event>,
    /// Set once the session failed; everything after answers the same.
    failed: Option<SessionError>,

    /// The stream we write control messages on, and what waits for it.
    control: Option<StreamId>,
    control_backlog: BytesMut,
    /// The peer's SETUP was read.
    setup_seen: bool,
    goaway_seen: bool,
    goaway_sent: bool,
    early_bytes: usize,
    early_streams: usize,

    streams: BTreeMap<StreamId, Stream>,
    requests: BTreeMap<RequestId, Request>,
    /// Updates not answered yet, of both sides, and what they update.
    updates: BTreeMap<RequestId, RequestId>,
    /// Answers to updates whose turn has not come: on a request's own stream answers carry no id.
    held: Vec<Held>,
    tokens: TokenCache,

    /// Next request id of ours.
    next_id: u64,
    /// Requests of ours that wait for MAX_REQUEST_ID, oldest first.
    blocked: VecDeque<RequestId>,
    /// First request id the peer does not allow us.
    peer_max: u64,
    /// The last `peer_max` we complained about.
    blocked_at: Option<u64>,
    peer_ids: IdSet,
    /// First request id we do not allow the peer, and how many of its ids are done with.
    granted: u64,
    spent: u64,
    peer_open: usize,
    peer_namespaces: usize,

    /// Track aliases of data the peer sends.
    aliases: BTreeMap<u64, Alias>,
    /// Aliases whose subscription is over, oldest first.
    retired: VecDeque<u64>,
    pending_bytes: usize,
    pending_streams: usize,
    data_streams: usize,

    /// Ranges the peer takes in one request, and updates of one request it lets us leave unanswered.
    peer_filter_ranges: u64,
    peer_updates: u64,
}

/// An inbound stream, or a bidirectional one.
#[derive(Debug)]
enum Stream {
    /// Came before SETUP, type not known: perhaps the control stream.
    Fresh {
        dir: Dir,
        head: BytesMut,
    },
    /// Came before SETUP: kept for later.
    Early {
        dir: Dir,
        data: BytesMut,
        fin: bool,
    },
    Control(Framer),
    /// A request of the peer whose first message is not whole yet.
    Opening(Framer),
    Request(RequestId, Framer),
    Data(Box<DataStream>),
    /// Nothing that still comes matters.
    Discard,
}

/// An answer to an update, which waits for those to its request and to earlier updates of it.
#[derive(Debug)]
struct Held {
    request: RequestId,
    update: RequestId,
    answer: Bytes,
}

/// A request that is open.
#[derive(Debug)]
struct Request {
    kind: RequestKind,
    ours: bool,
    answered: bool,
    /// The peer finished or reset its side of the request's stream.
    rx_done: bool,
    link: Link,
    /// Alias of the data streams it brings, of our subscriptions and the peer's PUBLISH.
    alias: Option<u64>,
    /// Group order of our FETCH, or of the fill of our subscription.
    order: GroupOrder,
    /// All objects of our FETCH are in.
    data_done: bool,
    /// Our updates not answered yet, oldest first.
    updates: Vec<RequestId>,
    /// An update of ours that finishes our answer to a PUBLISH; the owner does not know of it.
    own_update: Option<RequestId>,
    /// What a draft that says things in full needs to know of it later.
    memory: Option<Box<Memory>>,
    /// Namespaces the peer advertises on it.
    advertised: usize,
    goaway_seen: bool,
    goaway_sent: bool,
}

/// Where the messages of a request travel.
#[derive(Debug)]
enum Link {
    /// On the control stream.
    Control,
    /// On a stream not opened yet.
    Opening(BytesMut),
    Stream(StreamId),
    /// Nowhere until the peer raises MAX_REQUEST_ID.
    Blocked(BytesMut),
}

/// Whose data streams carry an alias.
#[derive(Clone, Copy, Debug)]
struct Alias {
    request: RequestId,
    /// Data is wanted; false after we cancelled.
    wanted: bool,
}

/// Retired aliases remembered, so that streams still on their way are recognised. 64 x 24 bytes.
const RETIRED_MAX: usize = 64;

/// A queue that grew past this many entries gives its memory back when drained. A session that
/// receives no data gives it back at any size: a viewer's events are rare, and four take 1.3 KB.
const QUEUE_KEPT: usize = 32;

impl Session {
    /// A session on a fresh connection. SETUP waits in [`Session::poll_output`] at once.
    pub fn new(
        draft: Draft,
        role: Role,
        transport: Transport,
        limits: Limits,
        options: SetupOptions,
    ) -> Self {
        let rules = draft.codec().rules();
        let window = 2 * limits.open_requests as u64;
        let mut session = Self {
            draft,
            role,
            transport,
            counters: Counters::default(),
            outputs: VecDeque::new(),
            events: VecDeque::new(),
            failed: None,
            control: None,
            control_backlog: BytesMut::new(),
            setup_seen: false,
            goaway_seen: false,
            goaway_sent: false,
            early_bytes: 0,
            early_streams: 0,
            streams: BTreeMap::new(),
            requests: BTreeMap::new(),
            updates: BTreeMap::new(),
            held: Vec::new(),
            tokens: TokenCache::new(limits.token_cache_bytes),
            next_id: u64::from(role == Role::Server),
            blocked: VecDeque::new(),
            peer_max: if rules.request_ids { 0 } else { u64::MAX },
            blocked_at: None,
            peer_ids: IdSet::default(),
            granted: if rules.request_ids { window } else { u64::MAX },
            spent: 0,
            peer_open: 0,
            peer_namespaces: 0,
            aliases: BTreeMap::new(),
            retired: VecDeque::new(),
            pending_bytes: 0,
            pending_streams: 0,
            data_streams: 0,
            peer_filter_ranges: 0,
            peer_updates: u64::MAX,
            limits,
        };
        session.send_setup(options);
        session
    }

    /// The draft spoken.
    pub fn draft(&self) -> Draft {
        self.draft
    }

    /// Whether the draft spoken can say this.
    pub fn supports(&self, feature: Feature) -> bool {
        self.rules().features.contains(&feature)
    }

    /// Which end this is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// What was refused or dropped so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Kind of an open request of either side.
    pub fn request_kind(&self, request: RequestId) -> Option<RequestKind> {
        self.requests.get(&request).map(|open| open.kind)
    }

    /// Bytes of a stream, in order; the first call for an unknown `id` means that the peer opened it.
    /// Answers on streams of ours (`stream_opened`) come here as well.
    pub fn handle_stream(
        &mut self,
        id: StreamId,
        dir: Dir,
        data: Bytes,
        fin: bool,
    ) -> Result<(), SessionError> {
        self.guard(|session| session.on_stream(id, dir, data, fin))
    }

    /// The peer reset its side of a stream.
    pub fn handle_reset(&mut self, id: StreamId, code: u64) -> Result<(), SessionError> {
        self.guard(|session| session.on_reset(id, code))
    }

    /// The peer stopped our side of a stream. Streams the session does not know are ignored.
    pub fn handle_stop(&mut self, id: StreamId, code: u64) -> Result<(), SessionError> {
        self.guard(|session| session.on_stop(id, code))
    }

    /// The transport opened the stream asked for by [`Output::Open`].
    pub fn stream_opened(&mut self, key: OpenKey, id: StreamId) -> Result<(), SessionError> {
        self.guard(|session| {
            session.on_opened(key, id);
            Ok(())
        })
    }

    /// A datagram arrived.
    pub fn handle_datagram(&mut self, data: Bytes) -> Result<(), SessionError> {
        self.guard(|session| session.on_datagram(data))
    }

    /// What to do on the transport next.
    pub fn poll_output(&mut self) -> Option<Output> {
        let kept = self.queue_kept();
        poll(&mut self.outputs, kept)
    }

    /// What happened next.
    pub fn poll_event(&mut self) -> Option<Event> {
        let kept = self.queue_kept();
        poll(&mut self.events, kept)
    }

    fn queue_kept(&self) -> usize {
        if self.data_streams > 0 { QUEUE_KEPT } else { 0 }
    }

    fn guard(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<(), SessionError>,
    ) -> Result<(), SessionError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = step(self);
        if let Err(error) = &result {
            self.failed = Some(error.clone());
        }
        result
    }

    fn codec(&self) -> &'static dyn Codec {
        self.draft.codec()
    }

    fn rules(&self) -> &'static Rules {
        self.draft.codec().rules()
    }

    fn peer(&self) -> Role {
        match self.role {
            Role::Client => Role::Server,
            Role::Server => Role::Client,
        }
    }

    // Control stream.

    fn send_setup(&mut self, mut options: SetupOptions) {
        if self.role == Role::Server || self.transport == Transport::WebTransport {
            options.path = None;
            options.authority = None;
        }
        let setup = Setup {
            options,
            max_request_id: Some(self.granted),
            token_cache_bytes: Some(self.limits.token_cache_bytes).filter(|&bytes| bytes > 0),
            filter_ranges: Some(self.limits.filter_ranges).filter(|&ranges| ranges > 0),
            request_updates: Some(self.limits.request_updates),
        };
        // Options that do not fit are the caller's mistake; an empty SETUP still opens the session.
        let role = self.role;
        let mut out = BytesMut::new();
        if self.codec().encode(&Message::Setup(setup), role, &mut out).is_err() {
            let _ = self.codec().encode(&Message::Setup(Setup::default()), role, &mut out);
        }
        self.control_backlog = out;
        match (self.rules().control, role) {
            (Control::UniPair, _) => self.open(CONTROL_KEY, Dir::Uni),
            (Control::ClientBidi, Role::Client) => self.open(CONTROL_KEY, Dir::Bi),
            // The answer waits for CLIENT_SETUP.
            (Control::ClientBidi, Role::Server) => {}
        }
    }

    fn open(&mut self, key: OpenKey, dir: Dir) {
        self.outputs.push_back(Output::Open { key, dir });
    }

    fn write(&mut self, stream: StreamId, data: Bytes, fin: bool) {
        self.outputs.push_back(Output::Write { stream, data, fin });
    }

    fn reset(&mut self, stream: StreamId, code: ResetCode) {
        let code = self.draft.reset_code(code);
        self.outputs.push_back(Output::Reset { stream, code });
    }

    fn stop(&mut self, stream: StreamId, code: ResetCode) {
        let code = self.draft.reset_code(code);
        self.outputs.push_back(Output::Stop { stream, code });
    }

    /// The control stream for our direction exists: what waited goes out.
    fn control_ready(&mut self, id: StreamId) {
        self.control = Some(id);
        let backlog = std::mem::take(&mut self.control_backlog).freeze();
        self.write(id, backlog, false);
    }

    fn encode(&self, message: &Message) -> Result<BytesMut, CommandError> {
        let mut out = BytesMut::new();
        self.codec().encode(message, self.role, &mut out)?;
        Ok(out)
    }

    /// A message about an open request, or about an update of one.
    fn encode_about(
        &self,
        request: RequestId,
        message: &Message,
    ) -> Result<BytesMut, CommandError> {
        let mut out = BytesMut::new();
        let about = self.requests.get(&request).map_or_else(About::default, Request::about);
        self.codec().encode_about(message, &about, self.role, &mut out)?;
        Ok(out)
    }

    fn send_control(&mut self, message: &Message) -> Result<(), CommandError> {
        let bytes = self.encode(message)?;
        self.send_control_bytes(&bytes.freeze());
        Ok(())
    }

    fn send_control_bytes(&mut self, bytes: &Bytes) {
        match self.control {
            Some(id) => self.write(id, bytes.clone(), false),
            None => self.control_backlog.extend_from_slice(bytes),
        }
    }

    fn on_opened(&mut self, key: OpenKey, id: StreamId) {
        if key == CONTROL_KEY {
            if self.rules().control == Control::ClientBidi {
                self.streams.insert(id, Stream::Control(Framer::default()));
            }
            self.control_ready(id);
            return;
        }
        let request = RequestId(key.0);
        let Some(open) = self.requests.get_mut(&request) else {
            // Cancelled before the stream was there.
            self.streams.insert(id, Stream::Discard);
            self.reset(id, ResetCode::Cancelled);
            self.stop(id, ResetCode::Cancelled);
            return;
        };
        if let Link::Opening(first) = &mut open.link {
            let first = std::mem::take(first).freeze();
            open.link = Link::Stream(id);
            self.streams.insert(id, Stream::Request(request, Framer::default()));
            self.write(id, first, false);
        }
    }
}

fn poll<T>(queue: &mut VecDeque<T>, kept: usize) -> Option<T> {
    let item = queue.pop_front();
    if queue.is_empty() && queue.capacity() > kept {
        *queue = VecDeque::new();
    }
    item
}
