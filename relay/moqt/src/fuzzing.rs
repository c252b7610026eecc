//! Entry points for fuzzers: plain functions that must neither panic nor grow without bound.
use crate::Draft;

/// Reads `bytes` as control messages of `draft`.
pub fn fuzz_control(draft: Draft, bytes: &[u8]) {
    let _ = (draft, bytes);
}

/// Reads `bytes` as a data stream of `draft`, cut at places the bytes choose.
pub fn fuzz_data(draft: Draft, bytes: &[u8]) {
    let _ = (draft, bytes);
}

/// Runs `bytes` as a sequence of operations against a session.
pub fn fuzz_session(bytes: &[u8]) {
    let _ = bytes;
}
