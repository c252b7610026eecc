//! Which stream (SSRC) of a publisher is its sound, which is a layer of its picture, and which is nothing we take. It
//! owns the bound on how many are remembered; what a stream is, the WebRTC stack knows.

use std::collections::HashMap;

use str0m::rtp::Ssrc;

/// Streams of one session that are remembered: three simulcast layers, sound and their repairs are eight, and a sender
/// may renew each of them three times. At 8 bytes each they cost nothing; without a bound a flood of invented ones would.
const STREAMS_MAX: usize = 32;

/// Where the packets of one stream go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Audio,
    Layer(usize),
    /// A stream nobody asked for.
    Ignored,
}

/// The streams of one session.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    known: HashMap<Ssrc, Lane>,
    refused: u64,
}

impl Lanes {
    /// Where packets of this stream go; asked once of `find`, unless too many are remembered.
    pub(super) fn lane(&mut self, ssrc: Ssrc, find: impl FnOnce() -> Lane) -> Lane {
        if let Some(lane) = self.known.get(&ssrc) {
            return *lane;
        }
        if self.known.len() >= STREAMS_MAX {
            self.refused += 1;
            return Lane::Ignored;
        }
        let lane = find();
        self.known.insert(ssrc, lane);
        lane
    }

    pub(super) fn known(&self, ssrc: Ssrc) -> Option<Lane> {
        self.known.get(&ssrc).copied()
    }

    /// Packets of streams beyond the bound.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h39_a_flood_of_streams_is_remembered_up_to_a_cap_and_those_in_use_go_on() {
        let mut lanes = Lanes::default();
        let mut asked = 0;
        let mut lane = |lanes: &mut Lanes, ssrc: u32, lane| {
            lanes.lane(Ssrc::from(ssrc), || {
                asked += 1;
                lane
            })
        };
        assert_eq!(lane(&mut lanes, 1, Lane::Audio), Lane::Audio);
        assert_eq!(lane(&mut lanes, 2, Lane::Layer(0)), Lane::Layer(0));
        for ssrc in 0..100_000 {
            assert_eq!(lane(&mut lanes, 1_000 + ssrc, Lane::Ignored), Lane::Ignored);
        }
        assert_eq!(lanes.known.len(), STREAMS_MAX);
        assert_eq!(lanes.refused(), 100_000 + 2 - STREAMS_MAX as u64);
        assert_eq!(lane(&mut lanes, 1, Lane::Ignored), Lane::Audio, "known is known");
        assert_eq!(lane(&mut lanes, 2, Lane::Ignored), Lane::Layer(0));
        assert_eq!(lane(&mut lanes, 3, Lane::Audio), Lane::Ignored, "it has had its streams");
        assert_eq!(asked, STREAMS_MAX, "the stack is asked once for each that is remembered");
    }
}
