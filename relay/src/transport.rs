//! What the relay asks of a connection: open, write, finish and reset streams. The shell implements
//! it over quinn-proto or WebTransport for the length of one [`crate::Relay::drive`] call; tests
//! implement it over a credit counter. No socket, no clock.

use bytes::Bytes;

use crate::{Dir, StreamId};

/// Why a write took nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// No flow-control or buffer room now; call [`crate::Relay::handle_writable`] when there is.
    Blocked,
    /// The peer sent STOP_SENDING with this code.
    Stopped(u32),
    /// The stream is unknown, finished or reset, or the connection is gone.
    Closed,
}

/// Why a datagram was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramError {
    /// No room now. Datagrams do not wait: this one is lost.
    Blocked,
    /// It fits no packet of this path, or the peer takes no datagrams.
    TooLarge,
}

/// One connection, as the relay sees it while it is being driven.
///
/// Stream codes are MoQT codes: a WebTransport shell maps them into HTTP/3 code space itself. The
/// bytes of a stream are MoQT bytes: a WebTransport shell writes its own stream preamble.
pub trait Transport {
    /// Opens a stream, or `None` while the peer's stream credit is used up; call
    /// [`crate::Relay::handle_streams_available`] when it is not.
    fn open(&mut self, dir: Dir) -> Option<StreamId>;

    /// Takes bytes from the front of `chunks` and advances each chunk by what was taken (a chunk
    /// wholly taken is left empty). Returns the bytes taken; less than offered means that the next
    /// write would block and that `handle_writable` follows.
    fn write(&mut self, stream: StreamId, chunks: &mut [Bytes]) -> Result<usize, WriteError>;

    /// Ends the stream after what was written.
    fn finish(&mut self, stream: StreamId);

    /// Abandons our half of the stream. A no-op on a stream that is gone.
    fn reset(&mut self, stream: StreamId, code: u32);

    /// Asks the peer to stop sending on the stream.
    fn stop(&mut self, stream: StreamId, code: u32);

    /// Sets the order among streams with bytes to send; higher goes first.
    fn set_priority(&mut self, stream: StreamId, priority: i32);

    /// Sends one datagram, whole and at once or not at all.
    fn send_datagram(&mut self, _datagram: Bytes) -> Result<(), DatagramError> {
        Err(DatagramError::TooLarge)
    }

    /// Ends the session: CONNECTION_CLOSE, or CLOSE_WEBTRANSPORT_SESSION, with this application code.
    fn close(&mut self, code: u32, reason: &str);
}
