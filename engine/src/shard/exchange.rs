//! What one shard tells the others: which namespaces it holds and which tracks its publishers brought
//! forward (commands over SPSC rings) and the objects of tracks they want (one lossy link, read by all). It translates between the relay's
//! words and the rings'; it decides nothing about media.
//!
//! A shard that wants a track asks its owner. The owner answers `Opened` on the command ring, then
//! replays its cache into its own link with the asker as target, then every new object follows in
//! the same link. Link order is therefore media order, and an asker that sees an unknown key only
//! has to look at its command ring again: the answer was put there first.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use weir_moqt::{FullTrackName, Namespace};
use weir_relay::admission::Place;
use weir_relay::{
    DoneCode, Event, Forwarding, Found, ObjectIn, Relay, RequestCode, ResetCode, SubgroupEnd,
    TrackFacts, TrackId, TrackOptions,
};
use weir_ring::link::{self, Flags, Header, Poll};
use weir_ring::spsc;
use weir_xdp::Datagram;

use super::intake::Letter;
use super::rings::{Neighbour, Rings};

/// Longest wait of commands at the sender when a ring is full; a shard that has not looked at its
/// ring for this many commands is dead.
const BACKLOG_MAX: usize = 65_536;

/// One shard to another.
#[derive(Debug)]
pub(super) enum Command {
    /// Something that is true once the sender's link has been read up to `at`.
    At {
        /// Position in the sender's link.
        at: u64,
        /// What.
        mark: Mark,
    },
    /// The sender has viewers for a track of the receiver.
    Want(FullTrackName),
    /// Its last viewer has gone.
    Unwant(FullTrackName),
    /// Objects of the wanted track follow in the link under this key.
    Opened {
        /// Which.
        track: FullTrackName,
        /// Descriptor key.
        key: u64,
        /// What its publisher said of it.
        facts: TrackFacts,
    },
    /// A session of the sender took or gave back a place that is counted over all shards.
    Place {
        /// Which.
        place: Place,
        /// Taken, or given back.
        taken: bool,
    },
    /// Between a publisher's session and its input.
    Letter(Box<Letter>),
    /// There is no such track.
    Refused {
        /// Which.
        track: FullTrackName,
        /// Why.
        code: RequestCode,
    },
}

/// What a position in a link means; marks keep their order among themselves.
#[derive(Debug)]
pub(super) enum Mark {
    /// The sender holds this namespace.
    Published(Namespace),
    /// The sender no longer does.
    Ended(Namespace),
    /// A publisher of the sender brought this track forward.
    TrackPublished(FullTrackName),
    /// It is gone.
    TrackWithdrawn(FullTrackName),
    /// The replay of the track under this key is over.
    Replayed(u64),
    /// The track under this key has ended.
    TrackEnded(u64, DoneCode),
}

/// Counters of the exchange.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    /// Objects put into our link.
    pub(super) exported: u64,
    /// Objects taken from links.
    pub(super) imported: u64,
    /// Descriptors missed because this shard was too slow.
    pub(super) overruns: u64,
    /// Datagrams handed to the shard that owns their connection.
    pub(super) handed_over: u64,
    /// Datagrams dropped because the ring to that shard was full.
    pub(super) hand_over_dropped: u64,
    /// Commands dropped because a ring stayed full.
    pub(super) commands_dropped: u64,
}

struct Export {
    key: u64,
    wanted_by: BTreeSet<u16>,
}

/// A track of another shard as this one imports it.
struct Import {
    track: TrackId,
    name: FullTrackName,
    /// After an overrun nothing is taken until a group begins.
    skipping: bool,
}

struct Peer {
    ring: Neighbour,
    backlog: VecDeque<Command>,
    imports: BTreeMap<u64, Import>,
    /// Marks that wait for the link to be read so far.
    marks: VecDeque<(u64, Mark)>,
    /// Fragments read or missed so far: a position in the peer's link.
    position: u64,
    /// Object being put together from fragments.
    assembling: BytesMut,
    /// Its beginning is missing.
    broken: bool,
}

/// What the descriptor has no field for rides in front of the payload: subgroup (8 bytes), kind (1),
/// and the object's properties behind their length (4). Objects of subgroup 0 of a local feed have
/// none of it.
const PREFIXED: Flags = Flags::from_bits(1 << 16);

/// Bytes of a prefix without properties.
const PREFIX_BYTES: usize = 13;

/// Kinds in a prefix: how an object travels, or how a subgroup ended.
mod kind {
    pub(super) const HOLDS_END: u8 = 0;
    pub(super) const SUBGROUP: u8 = 1;
    pub(super) const DATAGRAM: u8 = 2;
    pub(super) const COMPLETE: u8 = 3;
    /// And above: reset with the code of this place in [`super::RESETS`].
    pub(super) const RESET: u8 = 4;
}

/// Reset codes by their place in a prefix.
const RESETS: [ResetCode; 10] = [
    ResetCode::Cancelled,
    ResetCode::Internal,
    ResetCode::DeliveryTimeout,
    ResetCode::SessionClosed,
    ResetCode::GoingAway,
    ResetCode::TooFarBehind,
    ResetCode::UnknownObjectStatus,
    ResetCode::ExpiredToken,
    ResetCode::ExcessiveLoad,
    ResetCode::MalformedTrack,
];

/// The exchange of one shard.
pub(super) struct Exchange {
    epoch: Instant,
    link: link::Producer,
    peers: Vec<Peer>,
    exports: HashMap<TrackId, Export>,
    /// Tracks asked for while their publisher had not answered.
    pending: BTreeMap<FullTrackName, BTreeSet<u16>>,
    /// Letters that came, and from which shard.
    letters: VecDeque<(u16, Letter)>,
    next_key: u64,
    scratch: BytesMut,
    counters: Counters,
}

impl Exchange {
    pub(super) fn new(rings: Rings, epoch: Instant) -> Self {
        let peers = rings
            .neighbours
            .into_iter()
            .map(|ring| Peer {
                ring,
                backlog: VecDeque::new(),
                imports: BTreeMap::new(),
                marks: VecDeque::new(),
                position: 0,
                assembling: BytesMut::new(),
                broken: false,
            })
            .collect();
        Self {
            epoch,
            link: rings.link,
            peers,
            exports: HashMap::new(),
            pending: BTreeMap::new(),
            letters: VecDeque::new(),
            next_key: 1,
            scratch: BytesMut::new(),
            counters: Counters::default(),
        }
    }

    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    /// Tells every other shard.
    pub(super) fn announce(&mut self, published: bool, namespace: &Namespace) {
        self.tell_all(|| {
            let namespace = namespace.clone();
            if published { Mark::Published(namespace) } else { Mark::Ended(namespace) }
        });
    }

    /// Something that is true once our link has been read so far.
    fn tell_all(&mut self, mark: impl Fn() -> Mark) {
        let at = self.link.published();
        for peer in &mut self.peers {
            peer.send(Command::At { at, mark: mark() }, &mut self.counters);
        }
    }

    /// The relay's events that concern other shards; true when this was one.
    pub(super) fn handle_event(&mut self, event: &Event, relay: &mut Relay, now: Instant) -> bool {
        match event {
            Event::TrackPublished { track } => {
                self.tell_all(|| Mark::TrackPublished(track.clone()));
            }
            Event::TrackWithdrawn { track } => {
                self.tell_all(|| Mark::TrackWithdrawn(track.clone()));
            }
            Event::TrackWanted { track, shard } => {
                self.send(*shard, Command::Want(track.clone()));
            }
            Event::TrackUnwanted { track, shard } => {
                if let Some(peer) = self.peers.iter_mut().find(|peer| peer.ring.shard == *shard) {
                    peer.imports.retain(|_, import| import.name != *track);
                }
                self.send(*shard, Command::Unwant(track.clone()));
            }
            Event::TrackOpened { id, track } => {
                for shard in self.pending.remove(track).unwrap_or_default() {
                    self.export(*id, track, shard, relay, now);
                }
            }
            Event::TrackRefused { track, code, .. } => {
                for shard in self.pending.remove(track).unwrap_or_default() {
                    self.send(shard, Command::Refused { track: track.clone(), code: *code });
                }
            }
            Event::Exported { track, object } => {
                if let Some(export) = self.exports.get(track) {
                    let key = export.key;
                    self.put(key, object, link::ALL);
                }
            }
            Event::ExportedEnd { track, end } => {
                if let Some(export) = self.exports.get(track) {
                    let key = export.key;
                    self.put_end(key, end, link::ALL);
                }
            }
            Event::ExportEnded { track, code, .. } => {
                if let Some(export) = self.exports.remove(track) {
                    let at = self.link.published();
                    for shard in export.wanted_by {
                        let mark = Mark::TrackEnded(export.key, *code);
                        self.send(shard, Command::At { at, mark });
                    }
                }
            }
            Event::Place { place, taken } => {
                for peer in &mut self.peers {
                    let command = Command::Place { place: place.clone(), taken: *taken };
                    peer.send(command, &mut self.counters);
                }
            }
            _ => return false,
        }
        true
    }

    /// Reads commands and links. True when there was anything.
    pub(super) fn turn(&mut self, relay: &mut Relay, now: Instant) -> bool {
        let mut busy = false;
        for at in 0..self.peers.len() {
            busy |= self.commands(at, relay, now);
            busy |= self.objects(at, relay, now);
            let peer = &mut self.peers[at];
            while let Some(command) = peer.backlog.pop_front() {
                if let Err(spsc::Full(command)) = peer.ring.to.push(command) {
                    peer.backlog.push_front(command);
                    break;
                }
                peer.ring.waker.wake();
            }
        }
        busy
    }

    /// A datagram that belongs to another shard: one of a connection whose packets the kernel or
    /// the card brought to the wrong socket. QUIC recovers from a drop.
    pub(super) fn hand_over(&mut self, shard: u16, datagram: Datagram) {
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.ring.shard == shard) else {
            return;
        };
        match peer.ring.datagrams_to.push(datagram) {
            Ok(()) => self.counters.handed_over += 1,
            Err(spsc::Full(_)) => self.counters.hand_over_dropped += 1,
        }
        peer.ring.waker.wake();
    }

    /// The next datagram that another shard received for us.
    pub(super) fn next_datagram(&mut self) -> Option<Datagram> {
        self.peers.iter_mut().find_map(|peer| peer.ring.datagrams_from.pop())
    }

    /// Whether something waits to be read: asked once more before a shard sleeps.
    pub(super) fn is_idle(&mut self) -> bool {
        self.peers.iter_mut().all(|peer| {
            peer.ring.from.is_empty()
                && peer.ring.datagrams_from.is_empty()
                && peer.backlog.is_empty()
                && peer.ring.link.lag() == 0
        })
    }

    /// A letter for another shard; they arrive in order.
    pub(super) fn post(&mut self, shard: u16, letter: Letter) {
        self.send(shard, Command::Letter(Box::new(letter)));
    }

    /// The next letter from another shard.
    pub(super) fn next_letter(&mut self) -> Option<(u16, Letter)> {
        self.letters.pop_front()
    }

    fn send(&mut self, shard: u16, command: Command) {
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.ring.shard == shard) {
            peer.send(command, &mut self.counters);
        }
    }

    fn commands(&mut self, at: usize, relay: &mut Relay, now: Instant) -> bool {
        let mut busy = false;
        while let Some(command) = self.peers[at].ring.from.pop() {
            busy = true;
            let shard = self.peers[at].ring.shard;
            match command {
                Command::At { at: position, mark } => {
                    self.peers[at].marks.push_back((position, mark));
                }
                Command::Letter(letter) => self.letters.push_back((shard, *letter)),
                Command::Want(track) => match relay.find_track(&track, now) {
                    Found::Open(id) => self.export(id, &track, shard, relay, now),
                    Found::Pending(_) => {
                        self.pending.entry(track).or_default().insert(shard);
                    }
                    Found::Missing => {
                        let code = RequestCode::DoesNotExist;
                        self.send(shard, Command::Refused { track, code });
                    }
                },
                Command::Unwant(track) => {
                    self.unwant(&track, shard, relay, now);
                }
                Command::Opened { track, key, facts } => {
                    let mut options = TrackOptions::default();
                    options.replica = true;
                    if let Some(id) = relay.open_track(track.clone(), options, now) {
                        relay.set_facts(id, facts);
                        let import = Import { track: id, name: track, skipping: false };
                        self.peers[at].imports.insert(key, import);
                    }
                }
                Command::Refused { track, code } => relay.refuse_track(&track, code, now),
                Command::Place { place, taken } => relay.count_place(&place, taken),
            }
        }
        busy
    }

    /// One shard fewer wants a track, whether it is open or still being asked for.
    fn unwant(&mut self, track: &FullTrackName, shard: u16, relay: &mut Relay, now: Instant) {
        let waiting = self.pending.get_mut(track).is_some_and(|wanting| {
            wanting.remove(&shard);
            !wanting.is_empty()
        });
        if !waiting {
            self.pending.remove(track);
        }
        match relay.find_track(track, now) {
            Found::Open(id) => {
                let Some(export) = self.exports.get_mut(&id) else { return };
                export.wanted_by.remove(&shard);
                if export.wanted_by.is_empty() {
                    self.exports.remove(&id);
                    relay.set_export(id, false, now);
                }
            }
            // Having been asked for counts as interest until told otherwise.
            Found::Pending(id) if !waiting => relay.set_export(id, false, now),
            Found::Pending(_) | Found::Missing => {}
        }
    }

    /// Begins to export a track to one more shard: answer, replay, then live.
    fn export(
        &mut self,
        id: TrackId,
        name: &FullTrackName,
        shard: u16,
        relay: &mut Relay,
        now: Instant,
    ) {
        let next = &mut self.next_key;
        let export = self.exports.entry(id).or_insert_with(|| {
            *next += 1;
            Export { key: *next - 1, wanted_by: BTreeSet::new() }
        });
        export.wanted_by.insert(shard);
        let key = export.key;
        let facts = relay.facts(id);
        self.send(shard, Command::Opened { track: name.clone(), key, facts });
        let replay: Vec<ObjectIn> = relay.cached(id).collect();
        for object in &replay {
            self.put(key, object, shard);
        }
        let ends: Vec<SubgroupEnd> = relay.cached_ends(id).collect();
        for end in &ends {
            self.put_end(key, end, shard);
        }
        let mark = Mark::Replayed(key);
        self.send(shard, Command::At { at: self.link.published(), mark });
        relay.set_export(id, true, now);
    }

    /// Writes one object into our link.
    fn put(&mut self, key: u64, object: &ObjectIn, target: u16) {
        let mut flags = Flags::NONE;
        if object.end_of_group {
            flags = flags | Flags::END_OF_GROUP;
        }
        if target != link::ALL {
            flags = flags | Flags::REPLAY;
        }
        let mut header = Header {
            track: key,
            group: object.group,
            object: object.object,
            flags,
            target,
            priority: object.priority,
            stamp: object.arrived.saturating_duration_since(self.epoch).as_nanos() as u64,
        };
        let kind = match object.forwarding {
            Forwarding::Subgroup { holds_end: true } => kind::HOLDS_END,
            Forwarding::Subgroup { holds_end: false } => kind::SUBGROUP,
            Forwarding::Datagram => kind::DATAGRAM,
        };
        if kind == kind::HOLDS_END && object.subgroup == 0 && object.properties.is_empty() {
            self.link.publish(&header, &object.payload);
        } else {
            header.flags = header.flags | PREFIXED;
            self.prefix(object.subgroup, kind, &object.properties);
            self.scratch.extend_from_slice(&object.payload);
            self.link.publish(&header, &self.scratch);
        }
        self.counters.exported += 1;
        self.wake();
    }

    /// Writes the end of a subgroup into our link.
    fn put_end(&mut self, key: u64, end: &SubgroupEnd, target: u16) {
        let kind = match end.reset {
            None => kind::COMPLETE,
            Some(code) => {
                let at = RESETS.iter().position(|known| *known == code).unwrap_or(0);
                kind::RESET + at as u8
            }
        };
        let flags = if target == link::ALL { PREFIXED } else { PREFIXED | Flags::REPLAY };
        let header = Header {
            track: key,
            group: end.group,
            object: 0,
            flags,
            target,
            priority: 0,
            stamp: 0,
        };
        self.prefix(end.subgroup, kind, &Bytes::new());
        self.link.publish(&header, &self.scratch);
        self.wake();
    }

    fn prefix(&mut self, subgroup: u64, kind: u8, properties: &Bytes) {
        self.scratch.clear();
        self.scratch.extend_from_slice(&subgroup.to_le_bytes());
        self.scratch.extend_from_slice(&[kind]);
        self.scratch.extend_from_slice(&(properties.len() as u32).to_le_bytes());
        self.scratch.extend_from_slice(properties);
    }

    fn wake(&self) {
        for peer in &self.peers {
            peer.ring.waker.wake();
        }
    }

    /// Takes objects out of a neighbour's link.
    fn objects(&mut self, at: usize, relay: &mut Relay, now: Instant) -> bool {
        let shard = relay.shard();
        let mut busy = false;
        loop {
            let peer = &mut self.peers[at];
            if !peer.marks.is_empty() {
                peer.pass_marks(relay, now);
            }
            let fragment = match peer.ring.link.poll() {
                Poll::Empty => return busy,
                Poll::Overrun(overrun) => {
                    busy = true;
                    self.counters.overruns += overrun.missed;
                    peer.lost(overrun.missed, relay);
                    continue;
                }
                Poll::Ready(fragment) => fragment,
            };
            busy = true;
            peer.position += 1;
            let Header { track, flags, target, .. } = fragment.descriptor().header;
            if target != link::ALL && target != shard {
                continue;
            }
            if peer.imports.contains_key(&track) {
                if flags.contains(Flags::FIRST) {
                    peer.assembling.clear();
                    peer.assembling.reserve(fragment.descriptor().object_size as usize);
                    peer.broken = false;
                }
            } else if target == shard || !peer.ring.from.is_empty() {
                // A key we do not know: its `Opened` was put into the command ring before this was
                // published, but maybe after we last looked there.
                peer.assembling.clear();
                peer.broken = false;
            } else {
                continue;
            }
            let header = fragment.descriptor().header;
            if let Err(overrun) = fragment.read_into(&mut peer.assembling) {
                self.counters.overruns += overrun.missed;
                // The fragment just polled is among the missed, and its position was passed.
                peer.lost(overrun.missed.saturating_sub(1), relay);
                continue;
            }
            if !peer.imports.contains_key(&track) {
                self.commands(at, relay, now);
            }
            if flags.contains(Flags::LAST) {
                self.peers[at].take(&header, self.epoch, relay, &mut self.counters, now);
            }
        }
    }
}

impl Peer {
    fn send(&mut self, command: Command, counters: &mut Counters) {
        if self.backlog.len() >= BACKLOG_MAX {
            counters.commands_dropped += 1;
            return;
        }
        if !self.backlog.is_empty() {
            self.backlog.push_back(command);
        } else if let Err(spsc::Full(command)) = self.ring.to.push(command) {
            self.backlog.push_back(command);
        }
        self.ring.waker.wake();
    }

    /// The last fragment of an object has been read: hands the object to the relay.
    fn take(
        &mut self,
        header: &Header,
        epoch: Instant,
        relay: &mut Relay,
        counters: &mut Counters,
        now: Instant,
    ) {
        let mut payload = self.assembling.split().freeze();
        let Some(import) = self.imports.get_mut(&header.track) else { return };
        if self.broken {
            return;
        }
        let (mut subgroup, mut kind, mut properties) = (0, kind::HOLDS_END, Bytes::new());
        if header.flags.contains(PREFIXED) {
            if payload.len() < PREFIX_BYTES {
                return;
            }
            subgroup = payload.get_u64_le();
            kind = payload.get_u8();
            let length = payload.get_u32_le();
            properties = payload.split_to((length as usize).min(payload.len()));
        }
        if kind >= kind::COMPLETE {
            let reset = kind.checked_sub(kind::RESET);
            let reset = reset.and_then(|at| RESETS.get(usize::from(at)).copied());
            let end = SubgroupEnd { group: header.group, subgroup, reset };
            relay.end_subgroup(import.track, end, now);
            return;
        }
        if import.skipping && header.object != 0 {
            return;
        }
        import.skipping = false;
        counters.imported += 1;
        let object = ObjectIn {
            group: header.group,
            subgroup,
            object: header.object,
            priority: header.priority,
            properties,
            payload,
            end_of_group: header.flags.contains(Flags::END_OF_GROUP),
            arrived: epoch + Duration::from_nanos(header.stamp),
            forwarding: match kind {
                kind::DATAGRAM => Forwarding::Datagram,
                other => Forwarding::Subgroup { holds_end: other == kind::HOLDS_END },
            },
        };
        // A replica ignores overlaps of replay and live; anything else the relay counts.
        let _ = relay.write_object(import.track, object);
    }

    /// Fragments were lost: whatever was under way is incomplete until a group begins.
    fn lost(&mut self, missed: u64, relay: &mut Relay) {
        self.position += missed;
        self.broken = true;
        for import in self.imports.values_mut() {
            import.skipping = true;
            relay.abort_groups(import.track);
        }
    }

    /// Acts on the marks that the cursor has reached, in order.
    fn pass_marks(&mut self, relay: &mut Relay, now: Instant) {
        while self.marks.front().is_some_and(|(at, _)| *at <= self.position) {
            let Some((_, mark)) = self.marks.pop_front() else { return };
            match mark {
                Mark::Published(namespace) => {
                    relay.publish_remote(&namespace, self.ring.shard);
                }
                Mark::Ended(namespace) => relay.unpublish(&namespace, now),
                Mark::TrackPublished(track) => {
                    relay.publish_remote_track(&track, self.ring.shard, now);
                }
                Mark::TrackWithdrawn(track) => {
                    relay.withdraw_remote_track(&track, self.ring.shard);
                }
                Mark::Replayed(key) => {
                    if let Some(import) = self.imports.get(&key) {
                        relay.track_ready(import.track, now);
                    }
                }
                Mark::TrackEnded(key, code) => {
                    if let Some(import) = self.imports.remove(&key) {
                        relay.end_track(import.track, code, now);
                    }
                }
            }
        }
    }
}
