//! The RTMP handshake, server side (RTMP 1.0 section 5.2): C0 C1 in, S0 S1 S2 out, C2 in and
//! unread. Clients that sign their C1 (version bytes not zero) get the same plain echo: S1 says
//! version 0, at which librtmp, ffmpeg and Flash-era players fall back to it. No signature of
//! another company's player is made or checked here.

use bytes::{BufMut, BytesMut};

use super::Error;

/// C1, S1, C2 and S2 are all this long.
pub(super) const PACKET_BYTES: usize = 1536;
const VERSION: u8 = 3;

/// The part of a handshake still to come.
#[derive(Debug)]
pub(super) enum Handshake {
    /// Waiting for C0.
    Version,
    /// Collecting C1, at most [`PACKET_BYTES`].
    Hello(Vec<u8>),
    /// Skipping what remains of C2. Some encoders send a wrong echo, so it is not compared: it
    /// proves nothing on TCP.
    Echo(usize),
}

impl Handshake {
    pub(super) fn new() -> Self {
        Self::Version
    }

    /// Takes what belongs to the handshake from the front of `input`; true when it is complete.
    pub(super) fn handle_input(
        &mut self,
        input: &mut &[u8],
        transmit: &mut BytesMut,
    ) -> Result<bool, Error> {
        loop {
            match self {
                Self::Version => {
                    let Some((&version, rest)) = input.split_first() else { return Ok(false) };
                    if version != VERSION {
                        return Err(Error::Version { version });
                    }
                    *input = rest;
                    *self = Self::Hello(Vec::with_capacity(PACKET_BYTES));
                }
                Self::Hello(hello) => {
                    let missing = PACKET_BYTES - hello.len();
                    let (now, rest) = input.split_at(missing.min(input.len()));
                    hello.extend_from_slice(now);
                    *input = rest;
                    if hello.len() < PACKET_BYTES {
                        return Ok(false);
                    }
                    transmit.reserve(1 + 2 * PACKET_BYTES);
                    transmit.put_u8(VERSION);
                    transmit.put_slice(&[0; 8]);
                    transmit.extend(filler());
                    // GStreamer's rtmp2sink compares all of S2 but the times with its C1.
                    transmit.put_slice(hello);
                    *self = Self::Echo(PACKET_BYTES);
                }
                Self::Echo(left) => {
                    let skipped = (*left).min(input.len());
                    *input = input.split_at(skipped).1;
                    *left -= skipped;
                    return Ok(*left == 0);
                }
            }
        }
    }
}

/// The "random" part of S1. It guards nothing (the peer echoes it back in clear), so a fixed
/// sequence serves and keeps the core deterministic.
fn filler() -> impl Iterator<Item = u8> {
    let mut state = 0x9e37_79b9_u32;
    (0..PACKET_BYTES - 8).map(move |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
}
