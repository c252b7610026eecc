use std::collections::BTreeMap;

use weir_relay::{Draft, Limits, Relay, Secret, UpstreamParams};

use super::*;

/// Upstreams in a world where dialling always begins and nothing else happens by itself.
struct World {
    uplinks: Uplinks,
    relay: Relay,
    now: Instant,
    conns: u32,
    /// Slot, connection and session of what is open.
    open: Vec<(usize, ConnId, SessionId)>,
    dials: Vec<(usize, SocketAddr)>,
    used: Vec<SessionId>,
    closed: Vec<(ConnId, &'static str)>,
    asked: Vec<UpstreamUrl>,
    told: Vec<Vec<String>>,
    acks: BTreeMap<usize, u64>,
    mute: Vec<ConnId>,
    doubts: Vec<(SessionId, bool)>,
}

const RTT: Duration = Duration::from_millis(40);

impl World {
    fn new(urls: &[&str]) -> Self {
        let now = Instant::now();
        let urls: Vec<UpstreamUrl> =
            urls.iter().map(|url| UpstreamUrl::parse(url).expect("a URL")).collect();
        let mut world = Self {
            uplinks: Uplinks::new("edge", &urls, 1, now),
            relay: Relay::new(Limits::default(), 0),
            now,
            conns: 0,
            open: Vec::new(),
            dials: Vec::new(),
            used: Vec::new(),
            closed: Vec::new(),
            asked: Vec::new(),
            told: Vec::new(),
            acks: BTreeMap::new(),
            mute: Vec::new(),
            doubts: Vec::new(),
        };
        world.act();
        world
    }

    fn two() -> Self {
        Self::new(&["moqt://192.0.2.1:1", "moqt://192.0.2.2:2"])
    }

    fn act(&mut self) {
        while let Some(action) = self.uplinks.poll_action(self.now) {
            match action {
                Action::Dial { slot, to, .. } => {
                    self.dials.push((slot, to));
                    self.conns += 1;
                    self.uplinks.dialled(slot, ConnId::nth(self.conns));
                }
                Action::Resolve(url) => self.asked.push(url),
                Action::Use(session) => self.used.push(session),
                Action::Close { conn, reason } => {
                    self.closed.push((conn, reason));
                    let slot = self.uplinks.slot_of(conn).expect("open");
                    self.uplinks.closed(slot, self.now);
                    self.open.retain(|(_, known, _)| *known != conn);
                }
                Action::Probe { conn } => {
                    // Whoever is not mute acknowledges at once.
                    let heard = self.acks.entry(conn.index()).or_default();
                    *heard += u64::from(!self.mute.contains(&conn));
                    self.uplinks.probed(conn, *heard, RTT, self.now);
                }
                Action::Doubt { session, doubted } => self.doubts.push((session, doubted)),
                Action::Tell => self.told.push(self.uplinks.path()),
            }
        }
    }

    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(at) = self.uplinks.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.act();
        }
        self.now = end;
        self.act();
    }

    /// The dialled connection of a slot becomes a session.
    fn open(&mut self, slot: usize) -> SessionId {
        let conn = self.uplinks.slots[slot].conn().expect("dialled");
        let params = UpstreamParams {
            draft: Draft::D18,
            path: Secret::new("/mesh"),
            authority: "h:1".to_owned(),
        };
        let session = self.relay.open_upstream(params, self.now).expect("room");
        self.uplinks.opened(slot, session, self.now);
        self.open.push((slot, conn, session));
        self.act();
        session
    }

    fn says(&mut self, session: SessionId, path: &[&str]) {
        let path = path.iter().map(|id| (*id).to_owned()).collect();
        self.uplinks.path_heard(session, Some(path));
        self.uplinks.trust_heard(session);
        self.act();
    }

    fn ready(&mut self, slot: usize, path: &[&str]) -> SessionId {
        let session = self.open(slot);
        self.says(session, path);
        session
    }

    fn lose(&mut self, slot: usize) {
        self.uplinks.closed(slot, self.now);
        self.open.retain(|(known, ..)| *known != slot);
        self.act();
    }

    fn states(&self) -> Vec<State> {
        self.uplinks.statuses().map(|(status, _)| status.state).collect()
    }
}

const STEP: Duration = Duration::from_secs(11);

#[test]
fn the_first_ready_one_in_order_is_used_and_the_other_kept_warm() {
    let mut world = World::two();
    assert_eq!(world.dials.len(), 2, "both are dialled at once");
    let second = world.ready(1, &["region-b", "engine"]);
    assert_eq!(world.used, [second], "better the second now than the first later");
    assert_eq!(world.told.last().unwrap(), &["edge", "region-b", "engine"]);
    let first = world.ready(0, &["region-a", "engine"]);
    assert_eq!(world.used, [second], "the first has to prove itself");
    world.advance(STEP);
    assert_eq!(world.used, [second, first]);
    assert_eq!(world.states(), [State::Active, State::Ready]);
    assert_eq!(world.uplinks.switches(), 2);
}

#[test]
fn an_engine_that_was_replaced_gets_nothing_back_in_the_middle_of_a_broadcast() {
    let mut world = World::two();
    let standby = world.ready(1, &["engine.1"]);
    let first = world.ready(0, &["engine"]);
    world.advance(STEP);
    assert_eq!(world.used, [standby, first], "while nothing comes from above, the order decides");
    world.uplinks.set_carries(true);
    world.lose(0);
    assert_eq!(world.used, [standby, first, standby]);
    world.advance(STEP);
    world.ready(0, &["engine"]);
    world.advance(STEP * 3);
    assert_eq!(world.used.len(), 3, "{:?}", world.states());
    // With nothing to lose, or with nobody else, it is used again.
    world.uplinks.set_carries(false);
    world.advance(STEP);
    assert_eq!(world.states(), [State::Active, State::Ready]);
    world.uplinks.set_carries(true);
    world.lose(0);
    world.lose(1);
    world.advance(STEP);
    world.ready(0, &["engine"]);
    assert_eq!(world.states()[0], State::Active);
}

#[test]
fn a_lost_upstream_is_replaced_in_the_same_moment() {
    let mut world = World::two();
    let first = world.ready(0, &["engine"]);
    let second = world.ready(1, &["engine"]);
    world.lose(0);
    assert_eq!(world.used, [first, second]);
    assert_eq!(world.states(), [State::Waiting, State::Active]);
    world.lose(1);
    assert!(world.uplinks.path().is_empty());
    assert_eq!(world.told.last().unwrap(), &Vec::<String>::new(), "those below are told");
}

#[test]
fn an_upstream_that_gets_its_tracks_from_us_is_never_used() {
    let mut world = World::two();
    let first = world.ready(0, &["region-a", "edge", "region-b", "engine"]);
    assert_eq!(world.states()[0], State::Loop);
    world.says(first, &["region-a", "edge", "engine"]);
    assert!(world.used.is_empty());
    assert_eq!(world.uplinks.statuses().next().unwrap().0.loops, 1, "one event, not one a word");
    world.says(first, &["region-a", "engine"]);
    assert_eq!(world.used, [first], "it found another way");
}

#[test]
fn an_upstream_that_is_cut_off_itself_is_left_for_the_next() {
    let mut world = World::two();
    let first = world.ready(0, &["region-a", "engine"]);
    let second = world.ready(1, &["region-b", "engine"]);
    world.says(first, &[]);
    assert_eq!(world.used, [first, second]);
    assert_eq!(world.states(), [State::CutOff, State::Active]);
}

#[test]
fn a_silent_upstream_is_doubted_left_within_a_second_and_not_closed() {
    let mut world = World::two();
    let first = world.ready(0, &["region-a", "engine"]);
    let second = world.ready(1, &["region-b", "engine"]);
    world.advance(STEP);
    let conn = world.open[0].1;
    world.mute.push(conn);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.doubts, [(first, true)]);
    assert_eq!(world.used, [first, second]);
    assert_eq!(world.states(), [State::Silent, State::Active]);
    assert!(world.closed.is_empty(), "it may come back");
    // It does, and has to prove itself for as long as one that was away.
    world.mute.clear();
    world.advance(Duration::from_secs(5));
    assert_eq!(world.doubts, [(first, true), (first, false)]);
    assert_eq!(world.used, [first, second]);
    world.advance(STEP);
    assert_eq!(world.used, [first, second, first]);
    assert_eq!(world.uplinks.statuses().next().unwrap().0.silences, 1);
}

#[test]
fn a_single_silent_upstream_is_kept_and_those_below_are_told() {
    let mut world = World::new(&["moqt://192.0.2.1:1"]);
    let only = world.ready(0, &["engine"]);
    let conn = world.open[0].1;
    world.mute.push(conn);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.told.last().unwrap(), &Vec::<String>::new());
    world.mute.clear();
    world.advance(Duration::from_millis(200));
    assert_eq!(world.told.last().unwrap(), &["edge", "engine"]);
    assert_eq!(world.used, [only], "nothing moved");
}

#[test]
fn goaway_brings_a_stand_in_before_the_old_one_is_closed() {
    let mut world = World::two();
    let first = world.ready(0, &["region-a", "engine"]);
    let second = world.ready(1, &["region-b", "engine"]);
    world.uplinks.goaway(first, "https://192.0.2.7:7/", world.now);
    world.act();
    assert_eq!(world.dials.last().unwrap().1, "192.0.2.7:7".parse().unwrap());
    // Until the stand-in is ready the next in order takes over; nothing was closed yet.
    assert_eq!(world.used, [first, second]);
    assert!(world.closed.is_empty());
    let stand_in = world.ready(2, &["region-c", "engine"]);
    world.advance(STEP);
    assert_eq!(world.used, [first, second, stand_in]);
    world.uplinks.left(first);
    world.act();
    assert_eq!(world.closed.len(), 1, "the old one is let go");
    // The first comes back and gets its place; the stand-in is not needed any more.
    world.advance(STEP);
    let first = world.ready(0, &["region-a", "engine"]);
    world.advance(STEP);
    assert_eq!(world.used.last(), Some(&first));
    world.uplinks.left(stand_in);
    world.act();
    assert_eq!(world.states().len(), 2, "no third upstream stays");
}

#[test]
fn goaway_without_a_uri_means_the_same_place_again() {
    let mut world = World::new(&["moqt://192.0.2.1:1"]);
    let first = world.ready(0, &["engine"]);
    world.uplinks.goaway(first, "", world.now);
    world.act();
    assert_eq!(world.dials.last().unwrap().1, "192.0.2.1:1".parse().unwrap());
    assert_eq!(world.uplinks.path(), ["edge", "engine"], "it serves until it is left");
    let second = world.ready(1, &["engine"]);
    assert_eq!(world.used, [first, second]);
}

#[test]
fn an_upstream_that_says_nothing_is_closed() {
    let mut world = World::new(&["moqt://192.0.2.1:1"]);
    world.open(0);
    world.advance(SPEAK_TIMEOUT);
    assert_eq!(world.closed.len(), 1);
    assert_eq!(world.closed[0].1, "upstream says nothing");
}

#[test]
fn trust_of_another_engine_ends_the_session() {
    let mut world = World::new(&["moqt://192.0.2.1:1"]);
    let session = world.open(0);
    world.uplinks.trust_refused(session);
    world.act();
    assert_eq!(world.closed[0].1, "trust not signed by our engine");
}

#[test]
fn a_dead_upstream_costs_few_attempts_an_hour() {
    let mut world = World::new(&["moqt://192.0.2.1:1"]);
    let end = world.now + Duration::from_hours(1);
    while world.now < end {
        if world.uplinks.slots[0].conn().is_some() {
            world.advance(Duration::from_secs(5));
            world.lose(0);
        } else {
            world.advance(Duration::from_millis(100));
        }
    }
    assert!((300..=760).contains(&world.dials.len()), "{} attempts", world.dials.len());
}

#[test]
fn a_name_is_looked_up_and_its_addresses_are_tried_in_turn() {
    let mut world = World::new(&["moqt://engine.example.com:4443"]);
    assert!(world.dials.is_empty());
    let url = world.asked[0].clone();
    let addresses = ["192.0.2.1:4443".parse().unwrap(), "192.0.2.2:4443".parse().unwrap()];
    world.uplinks.resolved(&url, &addresses, world.now);
    world.act();
    world.lose(0);
    world.advance(Duration::from_secs(1));
    let tried: Vec<SocketAddr> = world.dials.iter().map(|(_, to)| *to).collect();
    assert_eq!(tried, addresses);
    world.lose(0);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.asked.len(), 2, "the name may stand for another place by now");
    world.uplinks.resolved(&url, &[], world.now);
    world.advance(Duration::from_secs(20));
    assert!(world.asked.len() > 2, "nobody knows it: asked again later");
}
