//! The drafts spoken here: their tokens, and for each one a codec that turns wire bytes into the
//! draft-free model and back. Adding a draft means adding a file here; no other module may ask which
//! draft it is.

mod d14;
mod d16;
mod d18;
mod d20;
#[cfg(test)]
mod differential;
mod filters;
mod pairs;
mod params;

use bytes::{Bytes, BytesMut};

use crate::error::{CommandError, RequestError, ResetCode, SessionError};
use crate::message::{About, Decoded, Kind, Message};
use crate::model::{RequestId, RequestKind, Role};
use crate::varint::Ints;

/// A draft of MoQT, fixed for the life of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Draft {
    /// draft-ietf-moq-transport-14.
    D14,
    /// draft-ietf-moq-transport-16.
    D16,
    /// draft-ietf-moq-transport-18.
    D18,
    /// draft-ietf-moq-transport-19.
    D19,
    /// draft-ietf-moq-transport-20.
    D20,
    /// draft-ietf-moq-transport-21.
    D21,
    /// draft-ietf-moq-transport-22.
    D22,
}

impl Draft {
    /// All drafts, in our order of preference: newest first.
    pub const ALL: [Draft; 7] =
        [Draft::D22, Draft::D21, Draft::D20, Draft::D19, Draft::D18, Draft::D16, Draft::D14];

    /// The draft of a peer that names none: the last one whose version is settled in SETUP.
    pub const UNNAMED: Draft = Draft::D14;

    /// The ALPN and WebTransport protocol token. That of draft 14 stood for all drafts up to then: SETUP
    /// tells which.
    pub const fn token(self) -> &'static str {
        match self {
            Self::D14 => "moq-00",
            Self::D16 => "moqt-16",
            Self::D18 => "moqt-18",
            Self::D19 => "moqt-19",
            Self::D20 => "moqt-20",
            Self::D21 => "moqt-21",
            Self::D22 => "moqt-22",
        }
    }

    /// Its number, as people call it.
    pub const fn number(self) -> u8 {
        match self {
            Self::D14 => 14,
            Self::D16 => 16,
            Self::D18 => 18,
            Self::D19 => 19,
            Self::D20 => 20,
            Self::D21 => 21,
            Self::D22 => 22,
        }
    }

    /// The draft with this number, if it is one of ours.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|draft| draft.number() == number)
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
        self.codec().reset_code(code)
    }

    /// The meaning of a stream reset code of this draft; unknown ones read as internal.
    pub fn read_reset_code(self, code: u64) -> ResetCode {
        RESET_CODES
            .into_iter()
            .find(|&known| u64::from(self.reset_code(known)) == code)
            .unwrap_or(ResetCode::Internal)
    }

    /// The one place that turns a draft into code.
    pub(crate) fn codec(self) -> &'static dyn Codec {
        match self {
            Self::D14 => &d14::D14,
            Self::D16 => &d16::D16,
            Self::D18 => &d18::D18,
            Self::D19 => &d20::D19,
            // The same on the wire.
            Self::D20 | Self::D21 => &d20::D20,
            Self::D22 => &d20::D22,
        }
    }
}

/// What some drafts can say and others cannot; ask `Session::supports`, never a draft's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Feature {
    /// A subscriber can ask for PUBLISH of every track under a prefix.
    SubscribeTracks,
    /// PUBLISH_BLOCKED, PUBLISH_SKIPPED.
    PublishBlocked,
    /// FETCH relative to a subscription.
    JoiningFetch,
    /// A fetch stream can say that a range is not known.
    UnknownRanges,
    /// FILL_PARAMETERS and fill streams, instead of joining FETCH.
    Fill,
    /// PUBLISH_STATE_NOTIFY.
    PublishState,
    /// GOAWAY for one request.
    RequestGoAway,
    /// REDIRECT with a place to go.
    Redirect,
    /// RENDEZVOUS_TIMEOUT.
    Rendezvous,
    /// Range filters, as far as MAX_FILTER_RANGES of the peer allows.
    RangeFilters,
    /// Several subscriptions to one track in one session.
    ManySubscriptions,
}

/// Codes that have a number in some draft, `Internal` first because others fall back to it.
const RESET_CODES: [ResetCode; 10] = [
    ResetCode::Internal,
    ResetCode::Cancelled,
    ResetCode::DeliveryTimeout,
    ResetCode::SessionClosed,
    ResetCode::GoingAway,
    ResetCode::TooFarBehind,
    ResetCode::UnknownObjectStatus,
    ResetCode::ExpiredToken,
    ResetCode::ExcessiveLoad,
    ResetCode::MalformedTrack,
];

/// All that differs between drafts.
pub(crate) trait Codec: Sync {
    /// How the draft lays out streams and objects.
    fn rules(&self) -> &'static Rules;

    /// Which message a type number means when `sender` sends it, if any.
    fn kind(&self, number: u64, sender: Role) -> Option<Kind>;

    /// Reads a message body. `stream` is the request whose stream it came on, where there is one.
    fn decode(&self, kind: Kind, body: Bytes, stream: RequestId) -> Result<Decoded, SessionError>;

    /// Appends a framed message; `sender` is us.
    fn encode(
        &self,
        message: &Message,
        sender: Role,
        out: &mut BytesMut,
    ) -> Result<(), CommandError>;

    /// Appends a framed message about an open request, of which drafts that say things in full write
    /// more than its id.
    fn encode_about(
        &self,
        message: &Message,
        _about: &About,
        sender: Role,
        out: &mut BytesMut,
    ) -> Result<(), CommandError> {
        self.encode(message, sender, out)
    }

    /// How the requester ends an open request.
    fn cancel(&self, kind: RequestKind, request: RequestId) -> Ending;

    /// How the responder takes back an accepted request.
    fn revoke(&self, kind: RequestKind, request: RequestId, error: &RequestError) -> Ending;

    /// The number of a stream reset code.
    fn reset_code(&self, code: ResetCode) -> u32;
}

/// How a request ends early.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By a message on the control stream.
    Message(Box<Message>),
    /// By resetting and stopping the request's own stream.
    Stream,
    /// Not at all: the answer is awaited and dropped.
    Silent,
}

/// Stream layout and object layout of a draft.
#[derive(Debug)]
pub(crate) struct Rules {
    /// Integer encoding.
    pub(crate) ints: Ints,
    /// Where control messages travel.
    pub(crate) control: Control,
    /// Requests that run on a bidirectional stream of their own.
    pub(crate) own_stream: fn(RequestKind) -> bool,
    /// MAX_REQUEST_ID limits requests.
    pub(crate) request_ids: bool,
    /// Draft 14 says things in full. An update has the whole subscription and no answer; answers are of a
    /// type for each kind of request; a namespace is taken back by name and advertised by
    /// PUBLISH_NAMESPACE; an object names its priority, and on a fetch stream all its ids.
    pub(crate) in_full: bool,
    /// Types in lists of key-value pairs are deltas; before, they stood as they are, in any order.
    pub(crate) pair_deltas: bool,
    /// Subgroup headers can say that the first object is the subgroup's first (bit 0x40).
    pub(crate) first_object_bit: bool,
    /// Fetch objects carry deltas, not ids.
    pub(crate) fetch_deltas: bool,
    /// Types of padding streams and datagrams.
    pub(crate) padding: Option<(u64, u64)>,
    /// Fetch streams can say that a range timed out; older ones call it unknown.
    pub(crate) gap_timed_out: bool,
    /// The answer to PUBLISH carries the subscriber's parameters; otherwise an update follows it.
    pub(crate) publish_ok_params: bool,
    /// Finishing the stream of a namespace request ends it (draft 18); later it says that no update follows.
    pub(crate) fin_ends_namespace: bool,
    /// What the draft can say.
    pub(crate) features: &'static [Feature],
}

/// Where the control stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// Each side opens a unidirectional one that starts with SETUP.
    UniPair,
    /// The client opens one bidirectional stream that starts with CLIENT_SETUP.
    ClientBidi,
}

/// What a code of a draft means, by that draft's table.
fn lookup<T: Copy>(table: &[(u64, T)], number: u64) -> Option<T> {
    table.iter().find(|(n, _)| *n == number).map(|(_, meaning)| *meaning)
}

/// The code of a draft for a meaning; 0, every draft's "internal error", where it has none.
fn number<T: Copy + PartialEq>(table: &[(u64, T)], meaning: T) -> u64 {
    table.iter().find(|(_, m)| *m == meaning).map_or(0, |(n, _)| *n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_codes_keep_their_meaning_within_a_draft_and_swap_between_drafts() {
        for draft in Draft::ALL {
            for code in RESET_CODES {
                let number = u64::from(draft.reset_code(code));
                let read = draft.read_reset_code(number);
                assert!(read == code || number == 0, "{draft:?} {code:?}");
            }
        }
        assert_eq!(Draft::D16.reset_code(ResetCode::UnknownObjectStatus), 4);
        assert_eq!(Draft::D18.reset_code(ResetCode::UnknownObjectStatus), 6);
        assert_eq!(Draft::D18.read_reset_code(4), ResetCode::GoingAway);
        assert_eq!(Draft::D18.read_reset_code(1 << 40), ResetCode::Internal);
    }

    #[test]
    fn a_group_order_of_zero_from_an_older_client_is_none_in_draft_16() {
        // Request 0, namespace (n), name t, one parameter: GROUP_ORDER.
        let subscribe = |order: u8| {
            let body = Bytes::copy_from_slice(&[0, 1, 1, b'n', 1, b't', 1, 0x22, order]);
            Draft::D16.codec().decode(Kind::Subscribe, body, RequestId(0))
        };
        let Ok(Decoded { message: Message::Subscribe { params, .. }, .. }) = subscribe(0) else {
            panic!("refused: {:?}", subscribe(0).map(|_| ()));
        };
        assert_eq!(params.group_order, None);
        assert!(subscribe(1).is_ok());
        assert!(subscribe(3).is_err());
    }

    #[test]
    fn the_servers_order_decides_among_offered_drafts() {
        let shaka = ["moqt-16", "moq-00"];
        assert_eq!(Draft::negotiate(shaka, &Draft::ALL), Some(Draft::D16));
        assert_eq!(Draft::negotiate(shaka, &[Draft::D14, Draft::D16]), Some(Draft::D14));
        assert_eq!(Draft::negotiate(["moqt-16", "moqt-18"], &Draft::ALL), Some(Draft::D18));
        assert_eq!(Draft::negotiate(["moqt-18"], &[Draft::D16]), None);
        assert_eq!(Draft::negotiate(["h3", "moq-lite-03"], &Draft::ALL), None);
    }
}
