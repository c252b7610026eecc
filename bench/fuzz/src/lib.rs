//! The list of everything that reads a stranger's bytes, one function each. Owns the names and the canary; the parsers
//! and their drivers live in the crates that own them. The fuzzer binary and the corpus replay both work from this list.

use std::time::Instant;

use weir_moqt::Draft;

/// One function that must return for every input, and the folder name of its corpus.
pub struct Target {
    /// Name on the command line and of the corpus folder.
    pub name: &'static str,
    /// Feeds the bytes to the parser; returns whatever they are, and panics only for a bug.
    pub run: fn(&[u8]),
}

/// All targets but the canary.
pub const TARGETS: &[Target] = &[
    Target { name: "rtmp", run: weir_feed::fuzzing::fuzz_rtmp },
    Target { name: "flv", run: weir_feed::fuzzing::fuzz_flv },
    Target { name: "amf", run: weir_feed::fuzzing::fuzz_amf },
    Target { name: "annexb", run: weir_feed::fuzzing::fuzz_annexb },
    Target { name: "srt", run: weir_feed::fuzzing::fuzz_srt },
    Target { name: "ts", run: weir_feed::fuzzing::fuzz_ts },
    Target { name: "whip_sdp", run: weir_feed::fuzzing::fuzz_whip_sdp },
    Target { name: "whip_stun", run: weir_feed::fuzzing::fuzz_whip_stun },
    Target { name: "whip_rtp", run: weir_feed::fuzzing::fuzz_whip_rtp },
    Target { name: "avc_config", run: weir_packager::fuzzing::fuzz_avc_config },
    Target { name: "aac_config", run: weir_packager::fuzzing::fuzz_aac_config },
    Target { name: "codecs", run: weir_packager::fuzzing::fuzz_codecs },
    Target { name: "fmp4", run: weir_packager::fuzzing::fuzz_fmp4 },
    Target { name: "fmp4_intake", run: weir_feed::fuzzing::fuzz_fmp4_intake },
    Target { name: "catalog", run: weir_packager::fuzzing::fuzz_catalog },
    Target { name: "moqt_control", run: moqt_control },
    Target { name: "moqt_data", run: moqt_data },
    Target { name: "moqt_properties", run: moqt_properties },
    Target { name: "moqt_session", run: weir_moqt::fuzzing::fuzz_session },
    Target { name: "steer", run: weir_xdp::fuzz_steer },
    Target { name: "frame", run: weir_xdp::frame::fuzz_frame },
    Target { name: "netlink", run: weir_xdp::fuzz_netlink },
    Target { name: "uring_message", run: weir_xdp::uring::fuzz_message },
    Target { name: "keeper", run: weir_xdp::keeper::fuzz_keeper },
    Target { name: "xdp_program", run: weir_xdp::program::fuzz_program },
    Target { name: "token", run: weir_relay::fuzzing::fuzz_token },
    Target { name: "trust", run: weir_relay::fuzzing::fuzz_trust },
    Target { name: "beacon", run: weir_relay::fuzzing::fuzz_beacon },
    Target { name: "path", run: weir_relay::fuzzing::fuzz_path },
    Target { name: "relay", run: relay },
    Target { name: "http3", run: weir_wt::fuzz_http3 },
];

/// The first byte chooses the draft, so that one corpus serves all and inputs cross over.
fn moqt_control(bytes: &[u8]) {
    if let Some((draft, rest)) = drafted(bytes) {
        weir_moqt::fuzzing::fuzz_control(draft, rest);
    }
}

fn moqt_data(bytes: &[u8]) {
    if let Some((draft, rest)) = drafted(bytes) {
        weir_moqt::fuzzing::fuzz_data(draft, rest);
    }
}

fn moqt_properties(bytes: &[u8]) {
    if let Some((draft, rest)) = drafted(bytes) {
        weir_moqt::fuzzing::fuzz_properties(draft, rest);
    }
}

/// An `Instant` can be had only from the clock; the relay sees steps from it, never the clock.
fn relay(bytes: &[u8]) {
    weir_relay::fuzzing::fuzz_relay(bytes, Instant::now());
}

fn drafted(bytes: &[u8]) -> Option<(Draft, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    Some((weir_moqt::fuzzing::draft_of(first), rest))
}

/// The name under which the fuzzer runs [`canary`].
pub const CANARY: &str = "canary";

/// A planted bug behind four comparisons: a fuzzer that follows coverage finds it in seconds, a blind one never does.
/// The smoke run fails unless it is found, which shows that the alarm works.
pub fn canary(bytes: &[u8]) {
    let mut depth = 0;
    for (byte, wanted) in bytes.iter().zip(b"weir") {
        if byte != wanted {
            return;
        }
        depth += 1;
        // A branch of its own for each step, so that every step is new coverage.
        match depth {
            1 => std::hint::black_box(&"w"),
            2 => std::hint::black_box(&"e"),
            3 => std::hint::black_box(&"i"),
            _ => sing(),
        };
    }
}

#[expect(clippy::panic, reason = "the canary exists to be caught panicking")]
fn sing() -> &'static &'static str {
    panic!("canary found")
}

/// Finds a target, the canary included.
pub fn target(name: &str) -> Option<fn(&[u8])> {
    if name == CANARY {
        return Some(canary);
    }
    TARGETS.iter().find(|target| target.name == name).map(|target| target.run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "canary found")]
    fn the_canary_sings_at_its_word() {
        canary(b"weir!");
    }

    #[test]
    fn the_canary_is_silent_one_letter_before() {
        canary(b"weis");
        canary(b"wei");
    }

    #[test]
    fn every_target_has_one_name() {
        let mut names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        names.push(CANARY);
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
