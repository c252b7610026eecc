//! What an RTMP peer can do wrong. Owns the `onStatus` code each fault is told with; holds no text
//! of the peer's, so that no key can leak through it.

use crate::{EndReason, Unsupported};

/// A peer's fault. It ends this connection and no other.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value nested deeper than the limit.
    #[error("AMF value nested deeper than {max}")]
    AmfDepth {
        /// The limit.
        max: usize,
    },
    /// An AMF value that ends too early or has an unknown marker.
    #[error("malformed AMF at byte {offset}")]
    AmfMalformed {
        /// Offset in the message.
        offset: usize,
    },
    /// More AMF values in one message than the limit.
    #[error("more than {max} AMF values in one message")]
    AmfValues {
        /// The limit.
        max: usize,
    },
    /// A Set Chunk Size message outside 1..=2^31-1.
    #[error("chunk size {size} is outside 1..=2147483647")]
    ChunkSize {
        /// What was asked for.
        size: u32,
    },
    /// A chunk stream past the limit.
    #[error("more than {max} chunk streams")]
    ChunkStreams {
        /// The limit.
        max: usize,
    },
    /// A command or metadata message longer than the limit.
    #[error("command of {bytes} bytes, at most {max} taken")]
    CommandTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A protocol control message of the wrong length.
    #[error("protocol control message {kind} of {bytes} bytes")]
    ControlLength {
        /// Message type id.
        kind: u8,
        /// Its length.
        bytes: usize,
    },
    /// The shell took too long to accept or reject. Ours, but the peer is told.
    #[error("no decision about the publisher in time")]
    DecisionTimeout,
    /// The handshake did not finish in time.
    #[error("handshake not finished in time")]
    HandshakeTimeout,
    /// A chunk header that leans on an earlier header of its chunk stream when there is none.
    #[error("chunk stream {chunk_stream} starts with a type {format} header")]
    HeaderWithoutPast {
        /// Chunk stream id.
        chunk_stream: u32,
        /// Header type, 1 to 3.
        format: u8,
    },
    /// No byte for the idle timeout.
    #[error("publisher silent")]
    IdleTimeout,
    /// A new header on a chunk stream whose message is not finished (only type 3 may follow).
    #[error("chunk stream {chunk_stream} starts a message inside another")]
    MessageInterrupted {
        /// Chunk stream id.
        chunk_stream: u32,
    },
    /// A message longer than the limit.
    #[error("message of {bytes} bytes, at most {max} taken")]
    MessageTooLong {
        /// Its claimed length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A command in a state where it makes no sense.
    #[error("command `{command}` out of order")]
    OutOfOrder {
        /// Which one, from our own list of names.
        command: &'static str,
    },
    /// More unfinished bytes over all chunk streams than the limit.
    #[error("more than {max} bytes of unfinished messages")]
    PartialBytes {
        /// The limit.
        max: usize,
    },
    /// More media before the publisher was accepted than the limit.
    #[error("too much media before the publish answer")]
    PendingMedia,
    /// Connected, but did not publish in time.
    #[error("no publish command in time")]
    PublishTimeout,
    /// The peer keeps asking without reading the answers.
    #[error("more than {max} reply bytes unread by the peer")]
    TransmitBacklog {
        /// The limit.
        max: usize,
    },
    /// A codec or layout this build refuses.
    #[error("{0} is not supported")]
    Unsupported(Unsupported),
    /// The first byte was not RTMP version 3.
    #[error("RTMP version {version}, only 3 is spoken")]
    Version {
        /// What came.
        version: u8,
    },
}

impl Error {
    /// The `onStatus` code that tells the publisher, for the faults it can act on.
    pub const fn code(&self) -> Option<&'static str> {
        match self {
            Self::DecisionTimeout | Self::PendingMedia => Some("NetStream.Publish.BadName"),
            Self::Unsupported(_) => Some("NetStream.Publish.Rejected"),
            Self::IdleTimeout => Some("NetStream.Publish.Idle"),
            _ => None,
        }
    }

    /// How the end of the feed is told to whoever consumes its media.
    pub const fn end_reason(&self) -> EndReason {
        match self {
            Self::IdleTimeout => EndReason::TimedOut,
            Self::Unsupported(what) => EndReason::Unsupported(*what),
            _ => EndReason::Protocol,
        }
    }
}
