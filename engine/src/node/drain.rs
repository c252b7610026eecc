//! Emptying a running node: gives the shards the order, watches how many sessions and publishers are
//! left, and says when nobody is or the deadline has passed. Ending the node is its caller's part.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::Shards;
use super::metrics::Occupancy;
use crate::config;
use crate::drain::{Door, Order, Progress, Stage};

/// How often the shards' numbers are looked at; they are laid out anew as often while draining.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Past the deadline, how long the shards may take to close those that stayed.
const CLOSE_PATIENCE: Duration = Duration::from_millis(500);

/// What a shard is told.
#[derive(Clone, Debug)]
pub(super) struct ShardOrder {
    pub(super) new_uri: Arc<str>,
    pub(super) deadline: Instant,
}

/// Listens for orders, and tells callers how the one under way goes.
pub(super) struct Desk {
    orders: mpsc::Receiver<Order>,
    tell: watch::Sender<Progress>,
    /// For `/healthz`.
    draining: Arc<AtomicBool>,
    serving: tokio::task::JoinHandle<()>,
}

impl Desk {
    pub(super) fn open(door: Door) -> Self {
        let (orders, taken) = mpsc::channel(1);
        let (tell, progress) = watch::channel(Progress::SERVING);
        let serving = tokio::spawn(door.serve(orders, progress));
        Self { orders: taken, tell, draining: Arc::default(), serving }
    }

    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.draining)
    }

    /// The next order of an operator.
    pub(super) async fn order(&mut self) -> Order {
        match self.orders.recv().await {
            Some(order) => order,
            // The socket is gone; signals still work.
            None => std::future::pending().await,
        }
    }

    /// Empties the node. Can be cancelled, by whoever wants it to end at once.
    pub(super) async fn drain(&self, shards: &Shards, order: &Order, configured: &config::Drain) {
        let new_uri = order.new_uri.as_deref().unwrap_or(configured.new_uri.as_str());
        let span = order.deadline_secs.map_or(configured.deadline.0, Duration::from_secs);
        let deadline = Instant::now() + span;
        tracing::info!(new_uri, ?span, "draining");
        self.draining.store(true, Ordering::Relaxed);
        shards.drain(&ShardOrder { new_uri: new_uri.into(), deadline }).await;
        loop {
            let Occupancy { told, sessions, publishers, closed } = shards.occupancy();
            let left = deadline.saturating_duration_since(Instant::now());
            let seconds_left = left.as_millis().div_ceil(1_000) as u64;
            let now =
                Progress { state: Stage::Draining, sessions, publishers, seconds_left, closed };
            if told {
                self.tell.send_if_modified(|held| std::mem::replace(held, now) != now);
            }
            let empty = told && sessions == 0 && (publishers == 0 || left.is_zero());
            if empty || Instant::now() > deadline + CLOSE_PATIENCE {
                let done = Progress { state: Stage::Done, ..now };
                self.tell.send_replace(done);
                return tracing::info!(sessions, publishers, closed, "drained");
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Lets callers read the last word, and takes the socket away.
    pub(super) async fn close(self) {
        drop(self.tell);
        self.serving.abort();
        let _ = self.serving.await;
    }
}
