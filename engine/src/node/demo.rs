//! The demo broadcast: a small fragmented MP4 of our own, played in a loop into a shard as if an
//! encoder sent it. It gives way to a real encoder with the input's key and comes back when that
//! one has gone, so whoever pastes the demo's RTMP URL into an encoder sees himself on the page.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use weir_feed as feed;
use weir_packager::fmp4::{Looper, TimedSample};

use super::control::Grant;
use super::shell::{Clock, Core};
use crate::shard::Rank;

/// A moving clock and a tone, made by `bench/demo/make-demo.sh`.
const CLIP: &[u8] = include_bytes!("../../assets/demo.mp4");

/// How often the demo looks whether the encoder that replaced it has gone.
const STANDBY_LOOK: Duration = Duration::from_secs(1);

/// The demo's place: which input it feeds.
pub(super) struct Demo {
    grant: Grant,
    looper: Looper,
}

impl Demo {
    /// Reads the clip; fails only if the build holds a broken one.
    pub(super) fn new(grant: Grant) -> Result<Self, weir_packager::fmp4::Error> {
        Ok(Self { grant, looper: Looper::new(CLIP)? })
    }

    /// Plays for as long as the shard lives.
    pub(super) async fn play(self, core: Rc<RefCell<Core>>) {
        loop {
            let live = core.borrow().shard.is_live(&self.grant.input_id);
            if !live {
                self.round(&core).await;
            }
            glommio::timer::sleep(STANDBY_LOOK).await;
        }
    }

    /// Plays until an encoder takes over.
    async fn round(&self, core: &Rc<RefCell<Core>>) {
        let input_id = &self.grant.input_id;
        let begun = Clock::read();
        let opening = self.grant.opening(Rank::Standby, None);
        let opened = core.borrow_mut().shard.open_feed(&opening, begun.now, begun.wall);
        let Ok(id) = opened else { return };
        let looper = self.looper.clone();
        for config in looper.tracks().to_vec() {
            let event = feed::Event::Track(config);
            core.borrow_mut().shard.handle_media(input_id, id, event, begun.now, begun.wall);
        }
        for TimedSample { due, sample } in looper {
            let wait = (begun.now + due).saturating_duration_since(Clock::read().now);
            if !wait.is_zero() {
                core.borrow_mut().settle(Clock::read());
                glommio::timer::sleep(wait).await;
            }
            let clock = Clock::read();
            let event = feed::Event::Sample(sample);
            let held =
                core.borrow_mut().shard.handle_media(input_id, id, event, clock.now, clock.wall);
            if !held {
                return;
            }
        }
    }
}
