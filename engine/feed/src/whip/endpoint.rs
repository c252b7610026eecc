//! All WHIP sessions of one shard: which session a datagram is for, when each wants to be called, and
//! what becomes of what they hold when they end. A datagram is found by the user fragment in it or by
//! the address it comes from, never by asking session after session.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use str0m::IceCreds;

use super::sdp;
use super::session::{Effects, Session, end_reason};
use super::stun::{Kind, kind};
use super::{Diagnostics, EndCause, Event, Identity, Limits, Refused, SessionId, Stage, Transmit};

/// What an endpoint counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sessions accepted.
    pub accepted: u64,
    /// Offers refused for what is in them.
    pub refused_offer: u64,
    /// Offers refused because of [`Limits::sessions_max`].
    pub refused_capacity: u64,
    /// Datagrams taken in.
    pub datagrams: u64,
    /// Datagrams that belong to nobody.
    pub stray: u64,
    /// Addresses not learned because of [`Limits::addresses_max`].
    pub addresses_full: u64,
    /// Sessions that never sent media.
    pub never_connected: u64,
    /// Packets of sessions that ended: given up for lost.
    pub lost_packets: u64,
    /// Pictures of sessions that ended: left out for those.
    pub lost_pictures: u64,
    /// Of sessions that ended: times more packets or bytes waited than may.
    pub overflows: u64,
    /// Of sessions that ended: packets of more streams than are remembered.
    pub streams_refused: u64,
    /// Of sessions that ended: keyframes asked for.
    pub keyframes_asked: u64,
}

struct Held {
    session: Session,
    ufrag: String,
    /// Where it can reach us.
    addresses: Vec<SocketAddr>,
    /// Addresses it sends from, and which of ours it sends to.
    peers: Vec<SocketAddr>,
    due: Instant,
    stage: Option<Stage>,
}

/// The WHIP sessions of one shard.
pub struct Endpoint {
    limits: Limits,
    sessions: BTreeMap<SessionId, Held>,
    by_ufrag: HashMap<String, SessionId>,
    /// Session of an address, and at which of ours it was last heard.
    by_peer: HashMap<SocketAddr, (SessionId, Option<IpAddr>)>,
    timers: BTreeSet<(Instant, SessionId)>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Endpoint {
    /// Without sessions.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            sessions: BTreeMap::new(),
            by_ufrag: HashMap::new(),
            by_peer: HashMap::new(),
            timers: BTreeSet::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// A publisher whose key is good makes an offer; the answer to it. The addresses are where it can
    /// send to.
    pub fn accept(
        &mut self,
        id: SessionId,
        identity: &Identity,
        offer: &str,
        addresses: &[SocketAddr],
        now: Instant,
    ) -> Result<String, Refused> {
        if self.sessions.len() >= self.limits.sessions_max || self.sessions.contains_key(&id) {
            self.counters.refused_capacity += 1;
            return Err(Refused::Capacity);
        }
        let accepted = Session::accept(offer, identity, addresses, self.limits, now);
        let (session, answer) = accepted.inspect_err(|_| self.counters.refused_offer += 1)?;
        self.counters.accepted += 1;
        let ufrag = identity.ufrag.clone();
        self.by_ufrag.insert(ufrag.clone(), id);
        self.timers.insert((now, id));
        let addresses = addresses.to_vec();
        let peers = Vec::new();
        let held = Held { session, ufrag, addresses, peers, due: now, stage: None };
        self.sessions.insert(id, held);
        // What the offer led to is taken out of the stack before anything else goes in.
        self.with(id, now, |session, effects| session.handle_timeout(now, effects));
        Ok(answer)
    }

    /// A fragment for trickle ICE. With other credentials than before it restarts ICE: then `identity`
    /// becomes ours, and the answer is given.
    pub fn trickle(
        &mut self,
        id: SessionId,
        identity: &Identity,
        fragment: &str,
        restart: bool,
    ) -> Option<Result<Option<String>, Refused>> {
        let held = self.sessions.get_mut(&id)?;
        let fragment = match sdp::fragment(fragment) {
            Ok(fragment) => fragment,
            Err(refused) => return Some(Err(refused)),
        };
        if !restart {
            return Some(Ok(None));
        }
        let (Some(ufrag), Some(pass)) = (fragment.ufrag, fragment.password) else {
            return Some(Err(Refused::Unusable("an ICE restart needs ice-ufrag and ice-pwd")));
        };
        held.session.restart(identity, IceCreds { ufrag, pass });
        self.by_ufrag.remove(&held.ufrag);
        held.ufrag.clone_from(&identity.ufrag);
        self.by_ufrag.insert(identity.ufrag.clone(), id);
        let password = identity.password.expose();
        let ufrag = &identity.ufrag;
        let mut answer = format!("a=ice-lite\r\na=ice-ufrag:{ufrag}\r\na=ice-pwd:{password}\r\n");
        answer.push_str("m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n");
        for (number, address) in held.addresses.iter().enumerate() {
            // RFC 8839 §5.1: component 1, the priority of a host candidate, in order.
            let priority = 2_130_706_431 - 256 * number;
            let (ip, port) = (address.ip(), address.port());
            let _ = write!(
                answer,
                "a=candidate:{} 1 udp {priority} {ip} {port} typ host\r\n",
                number + 1
            );
        }
        answer.push_str("a=end-of-candidates\r\n");
        Some(Ok(Some(answer)))
    }

    /// The name of a session's ICE session: our user fragment.
    pub fn ice_session(&self, id: SessionId) -> Option<&str> {
        self.sessions.get(&id).map(|held| held.ufrag.as_str())
    }

    /// Ends a session. False when there is none.
    pub fn close(&mut self, id: SessionId, now: Instant) -> bool {
        if !self.sessions.contains_key(&id) {
            return false;
        }
        self.with(id, now, |session, effects| session.close(now, effects));
        true
    }

    /// A datagram arrived, at which of our addresses if that is known.
    pub fn handle_datagram(
        &mut self,
        from: SocketAddr,
        to: Option<IpAddr>,
        contents: &[u8],
        now: Instant,
    ) {
        self.counters.datagrams += 1;
        let kind = kind(contents);
        let id = match kind {
            Kind::Stun(ufrag) => self.by_ufrag.get(ufrag).copied(),
            Kind::Media => self.by_peer.get(&from).map(|(id, _)| *id),
            Kind::Stray => None,
        };
        let Some(id) = id else {
            self.counters.stray += 1;
            return;
        };
        let mut believed = false;
        self.answer_from(from, to, |this| {
            this.with(id, now, |session, effects| {
                believed = session.handle_datagram(from, contents, now, effects);
                if believed && matches!(kind, Kind::Stun(_)) {
                    session.note_stun(from, now);
                }
            });
        });
        if believed && matches!(kind, Kind::Stun(_)) {
            self.learn(from, to, id);
        }
    }

    /// Timers.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((due, id)) = self.timers.first().copied() {
            if due > now {
                return;
            }
            self.with(id, now, |session, effects| session.handle_timeout(now, effects));
            // A session that wants to be called at once again waits its turn.
            if let Some(held) = self.sessions.get_mut(&id)
                && held.due <= now
            {
                self.timers.remove(&(held.due, id));
                held.due = now + std::time::Duration::from_millis(1);
                self.timers.insert((held.due, id));
            }
        }
    }

    /// When [`Endpoint::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// What the shell should know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What can be said of a session.
    pub fn diagnostics(&self, id: SessionId) -> Option<Diagnostics> {
        self.sessions.get(&id).map(|held| held.session.diagnostics())
    }

    /// Sessions held.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Everything held for sessions, counted: zero when there are none.
    pub fn held(&self) -> usize {
        self.sessions.len() + self.by_ufrag.len() + self.by_peer.len() + self.timers.len()
    }

    /// Runs one call on a session and acts on what it led to.
    fn with(&mut self, id: SessionId, now: Instant, call: impl FnOnce(&mut Session, &mut Effects)) {
        let Some(held) = self.sessions.get_mut(&id) else { return };
        let mut effects = Effects::default();
        call(&mut held.session, &mut effects);
        for datagram in effects.datagrams {
            let source = self.by_peer.get(&datagram.destination).and_then(|(_, to)| *to);
            let (destination, contents) = (datagram.destination, datagram.contents);
            self.transmits.push_back(Transmit { destination, source, contents });
        }
        let media = effects.media.into_iter().map(|event| Event::Media(id, event));
        self.events.extend(media);
        let diagnostics = held.session.diagnostics();
        let stage = if diagnostics.first_packet.is_some() {
            Some(Stage::Media)
        } else if diagnostics.dtls.is_some() {
            Some(Stage::Dtls)
        } else {
            diagnostics.stun.map(|_| Stage::Stun)
        };
        if let Some(stage) = stage.filter(|_| stage > held.stage) {
            held.stage = Some(stage);
            self.events.push_back(Event::Progress(id, stage));
        }
        if let Some(cause) = held.session.ended() {
            return self.end(id, cause, diagnostics);
        }
        let due = held.session.poll_timeout().max(now);
        if due != held.due {
            self.timers.remove(&(held.due, id));
            held.due = due;
            self.timers.insert((due, id));
        }
    }

    /// Answers to `from` leave from the address it asked.
    fn answer_from(&mut self, from: SocketAddr, to: Option<IpAddr>, call: impl FnOnce(&mut Self)) {
        let before = self.transmits.len();
        call(self);
        for transmit in self.transmits.iter_mut().skip(before) {
            if transmit.destination == from {
                transmit.source = to;
            }
        }
    }

    fn learn(&mut self, from: SocketAddr, to: Option<IpAddr>, id: SessionId) {
        let Some(held) = self.sessions.get_mut(&id) else { return };
        if !held.peers.contains(&from) {
            if held.peers.len() >= self.limits.addresses_max {
                self.counters.addresses_full += 1;
                return;
            }
            held.peers.push(from);
            self.events.push_back(Event::Learned(from));
        }
        // An address that another session had (a port used again) is this one's now.
        self.by_peer.insert(from, (id, to));
    }

    fn end(&mut self, id: SessionId, cause: EndCause, diagnostics: Diagnostics) {
        let Some(held) = self.sessions.remove(&id) else { return };
        self.by_ufrag.remove(&held.ufrag);
        self.timers.remove(&(held.due, id));
        for peer in held.peers {
            if self.by_peer.get(&peer).is_some_and(|(owner, _)| *owner == id) {
                self.by_peer.remove(&peer);
                self.events.push_back(Event::Forgotten(peer));
            }
        }
        self.counters.never_connected += u64::from(diagnostics.first_packet.is_none());
        self.counters.lost_packets += diagnostics.lost_packets;
        self.counters.lost_pictures += diagnostics.lost_pictures;
        self.counters.overflows += diagnostics.overflows;
        self.counters.streams_refused += diagnostics.streams_refused;
        self.counters.keyframes_asked += diagnostics.keyframes_asked;
        let reason = end_reason(cause);
        self.events.push_back(Event::Media(id, crate::Event::End { reason }));
        self.events.push_back(Event::Ended(id, cause, Box::new(diagnostics)));
    }
}
