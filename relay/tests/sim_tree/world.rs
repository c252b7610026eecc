//! A tree of real relay cores in one thread: the engine's at the top, regions, edges, viewers. It owns virtual time and
//! what is under way between them. Streams keep their order and overtake each other; one send in fifty takes a round trip
//! longer, as one does whose packet is repaired. All chance follows from `SIM_SEED`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};
use weir_relay::{
    Beacon, Carrier, DefaultRoute, Dir, Draft, Event, FullTrackName, KeySet, Limits, Namespace,
    NodeKeys, ObjectIn, Relay, Secret, SessionId, SessionParams, StreamId, TrackId, TrackOptions,
    UpstreamParams,
};

use crate::parts::{Below, Core, Level, Link};
use crate::viewer::Viewer;
use crate::wire::{Mark, Sent, Wire};

/// Names and publisher priorities.
pub(crate) const TRACKS: [(&str, u8); 3] = [("catalog", 0), ("audio", 1), ("video", 2)];

/// Sound and pictures in a group, which takes this many tenths of a second.
pub(crate) const GROUP_OBJECTS: u64 = 20;

/// From one object of a track to the next.
const STEP: Duration = Duration::from_millis(100);

/// Payload bytes of a catalog, a sound, a key picture and any other.
const LENGTHS: [usize; 4] = [300, 90, 3_000, 400];

/// Payload bytes of one group of all tracks.
pub(crate) const GROUP_BYTES: usize =
    LENGTHS[0] + GROUP_OBJECTS as usize * (LENGTHS[1] + LENGTHS[3]) + LENGTHS[2] - LENGTHS[3];

/// Wall time at the start, in seconds.
const WALL: u64 = 1_800_000_000;

/// The draft that nodes speak.
const MESH_DRAFT: Draft = Draft::D18;

/// What happens at some moment.
enum Due {
    Arrive {
        link: usize,
        way: usize,
        stream: StreamId,
        sent: Vec<Sent>,
    },
    Acknowledged {
        link: usize,
        way: usize,
        stream: StreamId,
    },
    /// The other side of a link has found out that it is dead.
    Gone {
        core: usize,
        session: SessionId,
    },
    Timer(usize),
    Write,
    Act(Act),
}

/// What a story has planned.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    Join {
        edge: usize,
        draft: Draft,
    },
    Leave {
        viewer: usize,
    },
    Kill {
        core: usize,
    },
    Return {
        core: usize,
    },
    /// An edge takes its tracks from the other region.
    Turn {
        edge: usize,
    },
}

const DOWN: usize = 0;
const UP: usize = 1;

pub(crate) struct World {
    pub(crate) dice: fastrand::Rng,
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) cores: Vec<Core>,
    pub(crate) links: Vec<Link>,
    pub(crate) viewers: Vec<Viewer>,
    /// What was published, and when.
    pub(crate) made: BTreeMap<Mark, (Bytes, Instant)>,
    due: BTreeMap<(Instant, u64), Due>,
    planned: u64,
    tracks: Vec<TrackId>,
    tick: u64,
    token: String,
}

fn broadcast() -> Namespace {
    Namespace::new(["stream", "org_a", "lv_1"]).unwrap()
}

pub(crate) fn track(index: u8) -> FullTrackName {
    FullTrackName::new(broadcast(), TRACKS[usize::from(index)].0).unwrap()
}

/// The seed of this run.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("SIM_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or(0x5eed);
    eprintln!("SIM_SEED={seed}");
    seed
}

fn signer() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn token() -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","typ":"JWT","kid":"sgk_1"}"#);
    let claims = URL_SAFE_NO_PAD.encode(format!(
        r#"{{"sub":"lv_1","aud":"playback","iat":{WALL},"exp":{},"jti":"j","ver":0}}"#,
        WALL + 3600
    ));
    let signature = signer().sign(format!("{header}.{claims}").as_bytes()).to_bytes();
    format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode(signature))
}

impl World {
    /// The engine publishes from the start; `regions` dial it, and `edges` dial two regions each. Nobody watches.
    pub(crate) fn new(regions: usize, edges: usize) -> Self {
        #[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
        let start = Instant::now();
        let mut world = Self {
            dice: fastrand::Rng::with_seed(seed()),
            start,
            now: start,
            cores: Vec::new(),
            links: Vec::new(),
            viewers: Vec::new(),
            made: BTreeMap::new(),
            due: BTreeMap::new(),
            planned: 0,
            tracks: Vec::new(),
            tick: 0,
            token: token(),
        };
        world.add(Level::Engine, Vec::new());
        for _ in 0..regions {
            world.add(Level::Region, vec![0]);
        }
        for edge in 0..edges {
            let (first, second) = (1 + edge % regions, 1 + (edge + 1) % regions);
            world.add(Level::Edge, vec![first, second]);
        }
        let engine = &mut world.cores[0].relay;
        assert!(engine.publish(&broadcast()));
        for (index, (_, priority)) in TRACKS.iter().enumerate() {
            let mut options = TrackOptions::default();
            options.priority = *priority;
            world.tracks.push(engine.open_track(track(index as u8), options, start).unwrap());
        }
        world.plan(Duration::ZERO, Due::Write);
        world
    }

    fn add(&mut self, level: Level, above: Vec<usize>) {
        let index = self.cores.len();
        self.cores.push(Core {
            relay: self.relay(level),
            level,
            alive: true,
            above,
            uplinks: Vec::new(),
            links: BTreeMap::new(),
            timer: None,
            cached_max: 0,
            before: Vec::new(),
        });
        self.dial(index);
    }

    fn first_edge(&self) -> usize {
        self.cores.iter().position(|core| core.level == Level::Edge).unwrap()
    }

    /// A relay as its node starts it.
    fn relay(&self, level: Level) -> Relay {
        let mut relay = Relay::new(Limits::default(), 0);
        let mut keys = KeySet::new();
        keys.insert_ed25519("sgk_1", signer().verifying_key().as_bytes(), "org_a");
        relay.set_keys(keys, self.now);
        let hash = NodeKeys::hash(&[5; 32], "nk_live_tree");
        relay.set_node_keys(NodeKeys::new(&[5; 32], vec![hash]), self.now);
        for beacon in Beacon::ALL {
            relay.open_track(beacon.track(), TrackOptions::default(), self.now).unwrap();
        }
        if level != Level::Engine {
            relay.set_default_route(DefaultRoute::new(1, &[3; 32]));
        }
        relay
    }

    /// Warm connections to every relay that it may use; tracks come from the first.
    fn dial(&mut self, index: usize) {
        for above in self.cores[index].above.clone() {
            if !self.cores[above].alive {
                continue;
            }
            let params = UpstreamParams {
                draft: MESH_DRAFT,
                path: Secret::new(format!("/mesh?nk=nk_live_tree&id=node-{index}")),
                authority: format!("192.0.2.{above}:4433"),
            };
            let below_session = self.cores[index].relay.open_upstream(params, self.now).unwrap();
            let above_session = self.accept(above, MESH_DRAFT, None);
            let link = self.link(above, above_session, Below::Core(index, below_session));
            let core = &mut self.cores[index];
            core.links.insert(below_session, link);
            core.uplinks.push(link);
            if core.uplinks.len() == 1 {
                core.relay.use_upstream(below_session, self.now);
            }
            self.settle(above);
        }
        self.settle(index);
    }

    fn accept(&mut self, core: usize, draft: Draft, path_and_query: Option<String>) -> SessionId {
        let transport =
            if path_and_query.is_some() { Carrier::WebTransport } else { Carrier::Quic };
        let peer = "192.0.2.1:4433".parse().unwrap();
        let params = SessionParams { draft, transport, path_and_query, peer };
        self.cores[core].relay.open_session(params, self.now).unwrap()
    }

    fn link(&mut self, above: usize, above_session: SessionId, below: Below) -> usize {
        let index = self.links.len();
        self.cores[above].links.insert(above_session, index);
        self.links.push(Link {
            above,
            above_session,
            below,
            alive: true,
            delay: Duration::from_micros(self.dice.u64(2_000..40_000)),
            wires: [Wire::new([1, 3]), Wire::new([0, 2])],
            order: [BTreeMap::new(), BTreeMap::new()],
            subscribed: BTreeMap::new(),
        });
        index
    }

    // Plans.

    fn plan(&mut self, after: Duration, due: Due) {
        self.planned += 1;
        self.due.insert((self.now + after, self.planned), due);
    }

    /// Something that a story wants to happen `after` the present.
    pub(crate) fn act(&mut self, after: Duration, act: Act) {
        self.plan(after, Due::Act(act));
    }

    /// Runs for some virtual time.
    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(entry) = self.due.first_entry()
            && entry.key().0 <= end
        {
            let ((at, _), due) = entry.remove_entry();
            self.now = at;
            self.happen(due);
        }
        self.now = end;
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Arrive { link, way, stream, sent } => self.arrive(link, way, stream, sent),
            Due::Acknowledged { link, way, stream } => {
                let Link { alive, above, above_session, below, .. } = self.links[link];
                if alive {
                    match (way, below) {
                        (DOWN, _) => {
                            self.cores[above].relay.handle_acknowledged(above_session, stream);
                        }
                        (_, Below::Core(core, session)) => {
                            self.cores[core].relay.handle_acknowledged(session, stream);
                        }
                        _ => {}
                    }
                }
            }
            Due::Gone { core, session } => {
                if self.cores[core].links.remove(&session).is_some() {
                    self.cores[core].relay.close_session(session, self.now);
                    self.settle(core);
                }
            }
            Due::Timer(core) => {
                let (now, wall) = (self.now, self.wall());
                let core_state = &mut self.cores[core];
                if core_state.timer == Some(now) {
                    core_state.timer = None;
                    core_state.relay.handle_timeout(now, wall);
                    self.settle(core);
                }
            }
            Due::Write => self.write(),
            Due::Act(act) => self.do_act(act),
        }
    }

    fn wall(&self) -> Duration {
        Duration::from_secs(WALL) + (self.now - self.start)
    }

    /// The engine publishes the next objects of all tracks.
    fn write(&mut self) {
        let (group, object) = (self.tick / GROUP_OBJECTS, self.tick % GROUP_OBJECTS);
        self.tick += 1;
        for (index, (_, priority)) in TRACKS.iter().enumerate() {
            let length = match (index, object) {
                (0, 0) => LENGTHS[0],
                (0, _) => continue,
                (1, _) => LENGTHS[1],
                (_, 0) => LENGTHS[2],
                _ => LENGTHS[3],
            };
            let mark = Mark { track: index as u8, group, object };
            let payload = mark.payload(length);
            self.made.insert(mark, (payload.clone(), self.now));
            let object = ObjectIn {
                group,
                subgroup: 0,
                object,
                priority: *priority,
                properties: Bytes::new(),
                payload,
                end_of_group: false,
                arrived: self.now,
                forwarding: weir_relay::Forwarding::default(),
            };
            self.cores[0].relay.write_object(self.tracks[index], object).unwrap();
        }
        self.settle(0);
        self.plan(STEP, Due::Write);
    }

    fn do_act(&mut self, act: Act) {
        match act {
            Act::Join { edge, draft } => self.join(edge, draft),
            Act::Leave { viewer } => {
                let Viewer { link, until, .. } = &mut self.viewers[viewer];
                if until.is_none() {
                    *until = Some(self.now);
                    let link = *link;
                    self.links[link].alive = false;
                    let (core, session) = (self.links[link].above, self.links[link].above_session);
                    self.happen(Due::Gone { core, session });
                }
            }
            Act::Kill { core } => self.kill(core),
            Act::Return { core } => {
                let relay = self.relay(self.cores[core].level);
                let state = &mut self.cores[core];
                let before = std::mem::replace(&mut state.relay, relay);
                state.before.push(before.metrics().clone());
                state.alive = true;
                self.dial(core);
            }
            Act::Turn { edge } => {
                let core = &mut self.cores[edge];
                let links = &self.links;
                let next = core.uplinks.iter().rev().find(|link| links[**link].alive);
                if let Some(Below::Core(_, session)) = next.map(|link| links[*link].below) {
                    core.relay.use_upstream(session, self.now);
                    self.settle(edge);
                }
            }
        }
    }

    fn join(&mut self, edge: usize, draft: Draft) {
        if !self.cores[edge].alive {
            // It dials again, as a player does.
            return self.act(Duration::from_millis(500), Act::Join { edge, draft });
        }
        let path = format!("/playback/lv_1?tok={}", self.token);
        let session = self.accept(edge, draft, Some(path));
        let link = self.link(edge, session, Below::Viewer(self.viewers.len()));
        self.viewers.push(Viewer::new(draft, (edge, link), self.now));
        self.settle(edge);
        self.speak(self.viewers.len() - 1);
    }

    /// A node dies without a word. Its neighbours find out; its viewers go to another edge, or wait for this one.
    fn kill(&mut self, index: usize) {
        let core = &mut self.cores[index];
        core.alive = false;
        core.uplinks.clear();
        core.timer = None;
        let links = std::mem::take(&mut core.links);
        let mut turned = Vec::new();
        for link in links.into_values() {
            self.links[link].alive = false;
            let Link { above, above_session, below, .. } = self.links[link];
            let silence = Duration::from_millis(self.dice.u64(600..900));
            match below {
                Below::Viewer(viewer) => {
                    let left = self.viewers[viewer].until.replace(self.now);
                    assert_eq!(left, None, "a viewer that left has no link");
                    let others = self.cores.len() - self.first_edge();
                    let other = self.first_edge() + self.dice.usize(0..others);
                    let edge = if self.dice.bool() { index } else { other };
                    let draft = self.viewers[viewer].draft;
                    self.act(silence, Act::Join { edge, draft });
                }
                Below::Core(core, _) if core == index => {
                    self.plan(silence, Due::Gone { core: above, session: above_session });
                }
                Below::Core(core, session) => {
                    self.plan(silence, Due::Gone { core, session });
                    turned.push((core, silence));
                }
            }
        }
        for (edge, silence) in turned {
            self.act(silence, Act::Turn { edge });
        }
    }

    // Bytes.

    fn arrive(&mut self, link: usize, way: usize, stream: StreamId, sent: Vec<Sent>) {
        let Link { alive, above, above_session, below, delay, .. } = self.links[link];
        if !alive {
            return;
        }
        let ends = sent.iter().any(|sent| matches!(sent, Sent::Bytes { fin: true, .. }));
        if ends {
            self.links[link].order[way].remove(&stream);
            self.plan(delay, Due::Acknowledged { link, way, stream });
        }
        let (core, session) = match (way, below) {
            (UP, _) => (above, above_session),
            (_, Below::Core(core, session)) => (core, session),
            (_, Below::Viewer(viewer)) => {
                for sent in sent {
                    self.viewers[viewer].handle(stream, sent, &self.made);
                }
                return self.speak(viewer);
            }
        };
        let (now, wall) = (self.now, self.wall());
        let relay = &mut self.cores[core].relay;
        for sent in sent {
            match sent {
                Sent::Bytes { data, fin } => {
                    let dir = if stream.0 & 2 == 0 { Dir::Bi } else { Dir::Uni };
                    relay.handle_stream(session, stream, dir, data, fin, now, wall);
                }
                Sent::Reset { code } => relay.handle_reset(session, stream, code, now),
                Sent::Stop { code } => relay.handle_stop(session, stream, code, now),
            }
        }
        self.settle(core);
    }

    /// A viewer's words go up.
    fn speak(&mut self, viewer: usize) {
        let link = self.viewers[viewer].link;
        while let Some((stream, sent)) = self.viewers[viewer].poll_sent() {
            self.links[link].wires[UP].sent.push((stream, sent));
        }
        self.send(link, UP);
    }

    /// What was written on a link sets out.
    fn send(&mut self, link: usize, way: usize) {
        let state = &mut self.links[link];
        let mut written = std::mem::take(&mut state.wires[way].sent).into_iter().peekable();
        while let Some((stream, first)) = written.next() {
            let mut sent = vec![first];
            while let Some((_, next)) = written.next_if(|(next, _)| *next == stream) {
                sent.push(next);
            }
            let state = &mut self.links[link];
            let mut after = state.delay;
            // A viewer's requests come in order: a FETCH that overtakes its SUBSCRIBE is another story.
            if way == DOWN || state.is_between_relays() {
                after += state.delay / 10 * self.dice.u32(0..10) / 10;
                if self.dice.u32(0..50) == 0 {
                    after += state.delay * 2;
                }
            }
            let last = state.order[way].get(&stream).copied().unwrap_or(self.now);
            let at = last.max(self.now + after);
            state.order[way].insert(stream, at);
            self.plan(at - self.now, Due::Arrive { link, way, stream, sent });
        }
    }

    /// Lets a core write and say what it has to.
    fn settle(&mut self, index: usize) {
        let core = &mut self.cores[index];
        if !core.alive {
            return;
        }
        let mut writing = Vec::new();
        while let Some(session) = core.relay.poll_dirty() {
            let Some(link) = core.links.get(&session).copied() else { continue };
            let state = &mut self.links[link];
            let is_above = state.above == index && state.above_session == session;
            let way = if is_above { DOWN } else { UP };
            core.relay.drive(session, &mut state.wires[way], self.now);
            let closed = &state.wires[way].closed;
            assert!(closed.is_none(), "core {index} closed a session: {closed:?}");
            writing.push((link, way));
        }
        while let Some(event) = core.relay.poll_event() {
            if let Event::Subscribed { session, track } = event
                && !track.is_session_local()
                && let Some(link) = core.links.get(&session)
            {
                *self.links[*link].subscribed.entry(track).or_default() += 1;
            }
        }
        core.cached_max = core.cached_max.max(core.relay.metrics().cache_bytes);
        let timer = core.relay.poll_timeout().map(|at| at.max(self.now));
        if timer != core.timer {
            core.timer = timer;
            if let Some(at) = timer {
                self.plan(at - self.now, Due::Timer(index));
            }
        }
        for (link, way) in writing {
            self.send(link, way);
        }
    }
}
