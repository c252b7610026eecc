//! How fast a connection may send. Towards viewers that is Cubic as it stands. Towards relays of ours it is Cubic that
//! does not take every loss for congestion: links between sites lose packets by chance, and a window that is cut for each
//! of them carries `1.2 / sqrt(loss)` packets a round trip (RFC 5348 section 3.1, simplified): four at 10 %, which is less
//! than one picture. It owns the verdict on a loss; the window is Cubic's.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};

/// Losses up to this share of what was sent are chance as long as no queue grows: twice what a poor
/// link between sites loses, so that chance itself stays below it in a small count.
const CHANCE_LOSS_PERCENT: u64 = 20;

/// A queue grows when a round trip takes this share longer than the shortest one, and
const QUEUE_PERCENT: u32 = 25;

/// at least this much longer: timers and batches of a busy host cost as much.
const QUEUE_MIN: Duration = Duration::from_millis(5);

/// Losses are counted over about this many bytes: 200 packets, of which chance at 10 % takes 20 ± 8.
const COUNTED_BYTES: u64 = 240_000;

/// Makes controllers; whether a connection leads to a relay of ours may turn out later.
pub(super) struct Factory {
    /// Every connection leads to one.
    pub(super) node: bool,
}

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Congestion {
            cubic: Arc::new(CubicConfig::default()).build(now, current_mtu),
            node: Arc::new(AtomicBool::new(self.node)),
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
        held.node.store(true, Ordering::Relaxed);
    }
}

/// One connection's controller.
struct Congestion {
    cubic: Box<dyn Controller>,
    /// Shared with its clones, which is how [`trust_node`] reaches it inside quinn.
    node: Arc<AtomicBool>,
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
        let slack = QUEUE_MIN.max(self.rtt_min * QUEUE_PERCENT / 100);
        let queues = self.rtt > self.rtt_min + slack;
        // Of the first few packets one lost is a fifth already.
        let counted = (self.delivered + self.lost).max(COUNTED_BYTES / 4);
        !queues && self.lost * 100 <= counted * CHANCE_LOSS_PERCENT
    }
}

impl Controller for Congestion {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
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
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.cubic.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
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
        if !told && self.node.load(Ordering::Relaxed) && self.is_chance() {
            return;
        }
        self.cubic.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.cubic.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            cubic: self.cubic.clone_box(),
            node: Arc::clone(&self.node),
            rtt: self.rtt,
            rtt_min: self.rtt_min,
            delivered: self.delivered,
            lost: self.lost,
        })
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
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
        let now = Instant::now();
        let built = Arc::new(Factory { node }).build(now, MTU);
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
    fn a_relay_of_ours_keeps_its_window_when_a_tenth_is_lost_by_chance_and_a_viewer_does_not() {
        assert!(keeps_its_window(&mut controller(true), 10));
        assert!(!keeps_its_window(&mut controller(false), 10));
        let mut later = controller(false);
        trust_node(&later);
        assert!(keeps_its_window(&mut later, 10));
        trust_node(later.clone_box().as_ref());
        assert!(later.node.load(Ordering::Relaxed), "a clone reaches it");
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
