//! Everything a packager refuses. An error ends the sample or configuration it is about, never the packager: the caller
//! may drop the feed or carry on.

/// Why a configuration or sample was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration of a codec cannot be read.
    #[error("{codec} configuration: {reason}")]
    Config {
        /// Which codec.
        codec: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A timescale of zero or beyond what any container uses.
    #[error("timescale {0} is not within 1..=1000000000")]
    Timescale(u32),
    /// More tracks than a broadcast may have.
    #[error("more than {0} tracks")]
    TooManyTracks(usize),
    /// A sample of a track that was never described.
    #[error("sample of unknown track {0}")]
    UnknownTrack(u32),
    /// A sample larger than any sane picture.
    #[error("sample of {size} bytes, at most {max} are taken")]
    SampleTooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// A sample whose NAL lengths do not add up, or an empty one.
    #[error("malformed sample: {0}")]
    Sample(&'static str),
    /// The broadcast was ended.
    #[error("the broadcast has ended")]
    Ended,
}
