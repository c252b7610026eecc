//! What a tree is made of: relay cores on their levels, and the links between them and to viewers. It knows no time and
//! moves nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weir_relay::{FullTrackName, Metrics, Relay, SessionId, StreamId};

use crate::wire::Wire;

/// Where a core stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Engine,
    Region,
    Edge,
}

pub(crate) struct Core {
    pub(crate) relay: Relay,
    pub(crate) level: Level,
    pub(crate) alive: bool,
    /// Where it may dial, in order of preference.
    pub(crate) above: Vec<usize>,
    /// Links to above, of this life.
    pub(crate) uplinks: Vec<usize>,
    pub(crate) links: BTreeMap<SessionId, usize>,
    pub(crate) timer: Option<Instant>,
    /// The most that its cache held.
    pub(crate) cached_max: u64,
    /// Of lives that are over.
    pub(crate) before: Vec<Metrics>,
}

impl Core {
    /// A sum over all its lives.
    pub(crate) fn total(&self, count: impl Fn(&Metrics) -> u64) -> u64 {
        self.before.iter().map(&count).sum::<u64>() + count(self.relay.metrics())
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Below {
    Core(usize, SessionId),
    Viewer(usize),
}

pub(crate) struct Link {
    pub(crate) above: usize,
    pub(crate) above_session: SessionId,
    pub(crate) below: Below,
    pub(crate) alive: bool,
    pub(crate) delay: Duration,
    /// What each side has written: downwards, upwards.
    pub(crate) wires: [Wire; 2],
    /// When the last bytes of a stream arrive.
    pub(crate) order: [BTreeMap<StreamId, Instant>; 2],
    /// Subscriptions to media that the side above has accepted, by track.
    pub(crate) subscribed: BTreeMap<FullTrackName, u32>,
}

impl Link {
    /// Whether both of its ends are relays.
    pub(crate) fn is_between_relays(&self) -> bool {
        matches!(self.below, Below::Core(..))
    }

    /// The relay at its lower end.
    pub(crate) fn relay_below(&self) -> Option<usize> {
        match self.below {
            Below::Core(core, _) => Some(core),
            Below::Viewer(_) => None,
        }
    }
}
