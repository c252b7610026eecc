//! Error codes of MoQT, free of drafts, and the two error types a caller meets. Numbers that differ
//! between drafts live in `draft/*`; this file knows only what a code means.

use crate::model::RequestId;
use crate::name::FullTrackName;

/// Why a session closes (session termination codes; the numbers are the same in every draft).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are those of the specification")]
pub enum SessionCode {
    NoError,
    Internal,
    Unauthorized,
    ProtocolViolation,
    InvalidRequestId,
    DuplicateTrackAlias,
    KeyValueFormatting,
    TooManyRequests,
    InvalidPath,
    MalformedPath,
    GoAwayTimeout,
    ControlMessageTimeout,
    DataStreamTimeout,
    TokenCacheOverflow,
    DuplicateTokenAlias,
    VersionNegotiationFailed,
    MalformedToken,
    UnknownTokenAlias,
    ExpiredToken,
    InvalidAuthority,
    MalformedAuthority,
    TooManyUpdates,
}

impl SessionCode {
    /// The code carried in CONNECTION_CLOSE or in the WebTransport close capsule.
    pub const fn wire(self) -> u32 {
        match self {
            Self::NoError => 0x0,
            Self::Internal => 0x1,
            Self::Unauthorized => 0x2,
            Self::ProtocolViolation => 0x3,
            Self::InvalidRequestId => 0x4,
            Self::DuplicateTrackAlias => 0x5,
            Self::KeyValueFormatting => 0x6,
            Self::TooManyRequests => 0x7,
            Self::InvalidPath => 0x8,
            Self::MalformedPath => 0x9,
            Self::GoAwayTimeout => 0x10,
            Self::ControlMessageTimeout => 0x11,
            Self::DataStreamTimeout => 0x12,
            Self::TokenCacheOverflow => 0x13,
            Self::DuplicateTokenAlias => 0x14,
            Self::VersionNegotiationFailed => 0x15,
            Self::MalformedToken => 0x16,
            Self::UnknownTokenAlias => 0x17,
            Self::ExpiredToken => 0x18,
            Self::InvalidAuthority => 0x19,
            Self::MalformedAuthority => 0x1A,
            Self::TooManyUpdates => 0x1B,
        }
    }
}

/// The session is over: close the connection with this code and reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (session code {:#x})", code.wire())]
pub struct SessionError {
    /// What to put in the close.
    pub code: SessionCode,
    /// Names the message, the field and the offset; never holds a secret.
    pub reason: String,
}

impl SessionError {
    pub(crate) fn new(code: SessionCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }

    pub(crate) fn violation(reason: impl Into<String>) -> Self {
        Self::new(SessionCode::ProtocolViolation, reason)
    }
}

/// Why a request is refused (REQUEST_ERROR). Unknown codes are read as [`RequestCode::Internal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are those of the specification")]
pub enum RequestCode {
    Internal,
    Unauthorized,
    Timeout,
    NotSupported,
    MalformedToken,
    ExpiredToken,
    GoingAway,
    ExcessiveLoad,
    DoesNotExist,
    InvalidRange,
    MalformedTrack,
    DuplicateSubscription,
    Uninterested,
    PrefixOverlap,
    NamespaceTooLarge,
    InvalidJoiningRequest,
    UnsupportedExtension,
    Redirect,
    ConflictingFilters,
    InvalidFilter,
    /// Draft 14: the range has objects of which it is not known whether they exist.
    UnknownStatus,
}

/// A refusal, sent or received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestError {
    /// Why.
    pub code: RequestCode,
    /// When to try again, in milliseconds; `None` = do not.
    pub retry_ms: Option<u64>,
    /// For people. At most 1024 bytes travel; longer ones are cut.
    pub reason: String,
    /// Where to go instead, with [`RequestCode::Redirect`].
    pub redirect: Option<Box<Redirect>>,
}

/// Where a redirected request should go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// URI to connect to; empty = this session.
    pub uri: String,
    /// The track to ask for there, or a namespace with an empty name; `None` = the same.
    pub track: Option<FullTrackName>,
}

impl RequestError {
    /// A refusal that asks not to retry.
    pub fn new(code: RequestCode, reason: impl Into<String>) -> Self {
        Self { code, retry_ms: None, reason: reason.into(), redirect: None }
    }
}

/// Why a publisher ends a subscription (PUBLISH_DONE). Unknown codes read as [`DoneCode::Internal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are those of the specification")]
pub enum DoneCode {
    Internal,
    Unauthorized,
    TrackEnded,
    SubscriptionEnded,
    GoingAway,
    TooFarBehind,
    Expired,
    UpdateFailed,
    ExcessiveLoad,
    MalformedTrack,
}

/// Why a stream is reset or stopped; `Draft::reset_code` gives the number of a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are those of the specification")]
pub enum ResetCode {
    Internal,
    Cancelled,
    DeliveryTimeout,
    SessionClosed,
    GoingAway,
    TooFarBehind,
    UnknownObjectStatus,
    ExpiredToken,
    ExcessiveLoad,
    MalformedTrack,
}

/// A command the session cannot carry out; the session itself is fine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// No such open request, or it is of another kind or direction.
    #[error("request {0:?} is not open for this command")]
    UnknownRequest(RequestId),
    /// The request was answered before.
    #[error("request {0:?} is already answered")]
    AlreadyAnswered(RequestId),
    /// The peer sent GOAWAY: no new requests.
    #[error("the peer is going away")]
    GoingAway,
    /// Too many requests of ours wait (`Limits::own_requests`).
    #[error("too many requests of our own are open")]
    TooManyRequests,
    /// The draft has no such message; ask `Session::supports` first.
    #[error("the draft has no {0}")]
    NotSupported(&'static str),
    /// A field does not fit the draft (a 64-bit id towards draft 16, a message above 65535 bytes).
    #[error("{0} does not fit the draft")]
    NotEncodable(&'static str),
}
