//! How fast a connection may send: Cubic that does not take every loss for congestion. Radio links and links between sites
//! lose packets by chance, and a window that is cut for each of them carries `1.2 / sqrt(loss)` packets a round trip (RFC 5348
//! section 3.1, simplified): four at 10 %, which is less than one picture. It owns the verdict on a loss; the window is
//! Cubic's.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{
    BbrConfig, Controller, ControllerFactory, ControllerMetrics, CubicConfig, NewRenoConfig,
};

/// Losses up to this share of what was sent are chance as long as no queue grows: twice what a poor
/// link between sites loses, so that chance itself stays below it in a small count.
const NODE_CHANCE_PERCENT: u64 = 20;

/// The same towards viewers: twice what a poor radio link loses.
const VIEWER_CHANCE_PERCENT: u64 = 10;

/// A queue grows when a round trip takes this share longer than the shortest one, and
const QUEUE_PERCENT: u32 = 25;

/// at least this much longer: timers and batches of a busy host cost as much.
const QUEUE_MIN: Duration = Duration::from_millis(5);

/// Losses are counted over about this many bytes: 200 packets, of which chance at 10 % takes 20 ± 8.
const COUNTED_BYTES: u64 = 240_000;

/// How a window grows and shrinks. All but the first are there to be compared with it (`engine/tests/sim_congestion.rs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Law {
    /// Cubic, for losses that are not chance.
    #[default]
    Patient,
    /// RFC 9438: by the time since the last loss.
    Cubic,
    /// RFC 9002 section 7.3: by a packet each round trip.
    NewReno,
    /// As quinn has it: by the bandwidth that was measured, whatever is lost.
    Bbr,
}

/// Makes controllers; whether a connection leads to a relay of ours may turn out later.
pub(super) struct Factory {
    /// Every connection leads to one.
    pub(super) node: bool,
    pub(super) law: Law,
    /// Bytes in flight before anything is known of the path.
    pub(super) initial_window: u64,
}

impl Factory {
    fn build_law(&self, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        match self.law {
            Law::Cubic | Law::Patient => {
                let mut config = CubicConfig::default();
                config.initial_window(self.initial_window);
                Arc::new(config).build(now, current_mtu)
            }
            Law::NewReno => {
                let mut config = NewRenoConfig::default();
                config.initial_window(self.initial_window);
                Arc::new(config).build(now, current_mtu)
            }
            Law::Bbr => {
                let mut config = BbrConfig::default();
                config.initial_window(self.initial_window);
                Arc::new(config).build(now, current_mtu)
            }
        }
    }
}

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Congestion {
            law: self.build_law(now, current_mtu),
            chance_percent: Arc::new(AtomicU64::new(match self.law {
                _ if self.node => NODE_CHANCE_PERCENT,
                Law::Patient => VIEWER_CHANCE_PERCENT,
                Law::Cubic | Law::NewReno | Law::Bbr => 0,
            })),
            rtt: Duration::ZERO,
            rtt_min: Duration::ZERO,
            delivered: 0,
            lost: 0,
        })
    }
}

/// From now on this connection leads to a relay of ours.
pub(super) fn trust_node(controller: &dyn Controller) {
    if let Ok(held) = controller.clone_box().into_any().downcast::<Congestion>() {
        held.chance_percent.store(NODE_CHANCE_PERCENT, Ordering::Relaxed);
    }
}

/// One connection's controller.
struct Congestion {
    law: Box<dyn Controller>,
    /// Losses up to this share are chance as long as no queue grows; zero takes none for chance. Shared with its clones, which
    /// is how [`trust_node`] reaches it inside quinn.
    chance_percent: Arc<AtomicU64>,
    rtt: Duration,
    rtt_min: Duration,
    /// Bytes lately acknowledged and lost.
    delivered: u64,
    lost: u64,
}

impl Congestion {
    fn count(&mut self, delivered: u64, lost: u64) {
        self.delivered += delivered;
        self.lost += lost;
        if self.delivered + self.lost > COUNTED_BYTES {
            self.delivered /= 2;
            self.lost /= 2;
        }
    }

    /// Whether what was lost was lost by chance, as far as one can tell.
    fn is_chance(&self) -> bool {
        let percent = self.chance_percent.load(Ordering::Relaxed);
        let slack = QUEUE_MIN.max(self.rtt_min * QUEUE_PERCENT / 100);
        let queues = self.rtt > self.rtt_min + slack;
        // Of the first few packets one lost is a fifth already.
        let counted = (self.delivered + self.lost).max(COUNTED_BYTES / 4);
        percent > 0 && !queues && self.lost * 100 <= counted * percent
    }
}

impl Controller for Congestion {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.law.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        (self.rtt, self.rtt_min) = (rtt.get(), rtt.min());
        self.count(bytes, 0);
        self.law.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.law.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.count(0, lost_bytes);
        // A mark (no bytes lost) is a router's word, and silence for long is no chance.
        let told = lost_bytes == 0 || is_persistent_congestion;
        if !told && self.is_chance() {
            return;
        }
        self.law.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.law.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.law.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.law.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            law: self.law.clone_box(),
            chance_percent: Arc::clone(&self.chance_percent),
            rtt: self.rtt,
            rtt_min: self.rtt_min,
            delivered: self.delivered,
            lost: self.lost,
        })
    }

    fn initial_window(&self) -> u64 {
        self.law.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: u16 = 1_200;
    const RTT: Duration = Duration::from_millis(40);

    fn controller(node: bool) -> Congestion {
        controller_of(node, Law::Patient)
    }

    fn controller_of(node: bool, law: Law) -> Congestion {
        let now = Instant::now();
        let initial_window = 10 * u64::from(MTU);
        let factory = Factory { node, law, initial_window };
        let built = Arc::new(factory).build(now, MTU);
        let mut congestion = *built.into_any().downcast::<Congestion>().expect("what was built");
        (congestion.rtt, congestion.rtt_min) = (RTT, RTT);
        congestion
    }

    /// Of 400 packets in 400 round trips, loses one in `every`; says whether the window is what it was.
    fn keeps_its_window(congestion: &mut Congestion, every: u32) -> bool {
        let before = congestion.window();
        let mut now = Instant::now();
        for at in 0..400 {
            now += RTT;
            if at % every == every - 1 {
                congestion.on_congestion_event(now, now, false, u64::from(MTU));
            } else {
                congestion.count(u64::from(MTU), 0);
            }
        }
        congestion.window() == before
    }

    #[test]
    fn a_relay_of_ours_keeps_its_window_when_a_tenth_is_lost_by_chance_and_a_viewer_does_not_at_a_seventh()
     {
        assert!(keeps_its_window(&mut controller(true), 10));
        assert!(!keeps_its_window(&mut controller(false), 7));
        let mut later = controller(false);
        trust_node(&later);
        assert!(keeps_its_window(&mut later, 10));
        trust_node(later.clone_box().as_ref());
        let percent = later.chance_percent.load(Ordering::Relaxed);
        assert_eq!(percent, NODE_CHANCE_PERCENT, "a clone reaches it");
    }

    #[test]
    fn a_viewer_keeps_its_window_when_a_twentieth_is_lost_by_chance_and_not_when_a_queue_grows() {
        assert!(keeps_its_window(&mut controller(false), 20));
        assert!(!keeps_its_window(&mut controller_of(false, Law::Cubic), 20));
        let mut queue = controller(false);
        queue.rtt = RTT * 3 / 2;
        assert!(!keeps_its_window(&mut queue, 20));
    }

    #[test]
    fn a_growing_queue_a_mark_silence_and_loss_beyond_chance_are_congestion() {
        let mut queue = controller(true);
        queue.rtt = RTT * 2;
        assert!(!keeps_its_window(&mut queue, 10));
        assert!(!keeps_its_window(&mut controller(true), 3), "a third is no chance");
        for (persistent, lost) in [(false, 0), (true, u64::from(MTU))] {
            let mut told = controller(true);
            let before = told.window();
            let now = Instant::now();
            told.on_congestion_event(now, now, persistent, lost);
            assert!(told.window() < before, "{persistent} {lost}");
        }
    }
}
