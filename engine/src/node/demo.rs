//! The demo broadcast: a small fragmented MP4 of our own, played in a loop into a shard as if an
//! encoder sent it. No encoder, no network: what works with it works without ffmpeg installed.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use weir_feed as feed;
use weir_packager::fmp4::{Looper, TimedSample};

use super::control::Grant;
use super::shell::{Clock, Core};

/// A moving clock and a tone, made by `bench/demo/make-demo.sh`.
const CLIP: &[u8] = include_bytes!("../../assets/demo.mp4");

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

    /// Plays until the broadcast is taken over by somebody with the key.
    pub(super) async fn play(self, core: Rc<RefCell<Core>>) {
        let Self { grant, mut looper } = self;
        let begun = Clock::read();
        let opened = core.borrow_mut().shard.open_feed(
            &grant.input_id,
            &grant.namespace,
            begun.now,
            begun.wall,
        );
        let Ok(id) = opened else { return };
        for config in looper.tracks().to_vec() {
            let event = feed::Event::Track(config);
            let mut core = core.borrow_mut();
            core.shard.handle_media(&grant.input_id, id, event, begun.now, begun.wall);
        }
        loop {
            let Some(TimedSample { due, sample }) = looper.next() else { return };
            let wait = (begun.now + due).saturating_duration_since(Clock::read().now);
            if wait > Duration::from_millis(1) {
                core.borrow_mut().settle(Clock::read());
                glommio::timer::sleep(wait).await;
            }
            let clock = Clock::read();
            let event = feed::Event::Sample(sample);
            let mut core = core.borrow_mut();
            if !core.shard.handle_media(&grant.input_id, id, event, clock.now, clock.wall) {
                return;
            }
        }
    }
}
