//! Every number an RTMP peer can push against, with the sum that chose it.

use std::time::Duration;

/// Limits of one RTMP connection. The defaults bound a stranger's connection, before its key is
/// known good, to about 20 MiB: bytes in progress, waiting media, and what we owe it.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Nesting of AMF values. Real `connect` objects use 2, `onMetaData` up to 4.
    pub amf_depth_max: usize,
    /// AMF values in one message. Real metadata has about 40; 64 KiB of nulls would be 65 536.
    pub amf_values_max: usize,
    /// Chunk streams in one connection. Encoders use 3 to 8 of the 65 597 the header can name.
    pub chunk_streams_max: usize,
    /// Bytes of one command or metadata message. Real ones stay under 2 KiB.
    pub command_bytes_max: usize,
    /// How long the shell may take to answer a publish request.
    pub decision_timeout: Duration,
    /// From the first moment to the end of the handshake, however the bytes trickle.
    pub handshake_timeout: Duration,
    /// Silence after which a publisher is taken for dead.
    pub idle_timeout: Duration,
    /// How long we wait for the peer to hang up after its goodbye.
    pub linger_timeout: Duration,
    /// Bytes of one message: 8 MiB is an uncompressed-looking 4K keyframe at 500 Mbit/s x 0.13 s.
    pub message_bytes_max: usize,
    /// Bytes of the application and of the stream name, each.
    pub name_bytes_max: usize,
    /// Bytes of unfinished messages over all chunk streams: two of the largest, interleaved.
    pub partial_bytes_max: usize,
    /// Media bytes held while the shell decides: 4 MiB is 0.3 s of 100 Mbit/s.
    pub pending_bytes_max: usize,
    /// Media messages held while the shell decides: about 10 s of 60 Hz video with AAC.
    pub pending_messages_max: usize,
    /// From the end of the handshake to the publish command.
    pub publish_timeout: Duration,
    /// Reply bytes not yet taken by the shell. A whole publish conversation is under 2 KiB; a peer
    /// that asks without reading answers meets this.
    pub transmit_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            amf_depth_max: 16,
            amf_values_max: 1024,
            chunk_streams_max: 64,
            command_bytes_max: 64 << 10,
            decision_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(30),
            linger_timeout: Duration::from_secs(2),
            message_bytes_max: 8 << 20,
            name_bytes_max: 1024,
            partial_bytes_max: 16 << 20,
            pending_bytes_max: 4 << 20,
            pending_messages_max: 2048,
            publish_timeout: Duration::from_secs(10),
            transmit_bytes_max: 64 << 10,
        }
    }
}
