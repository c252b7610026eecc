//! Control messages, draft-free. Each codec fills in what its draft leaves to context: an answer always
//! names its request here, whether the wire carries the id or the stream implies it.

use crate::error::{DoneCode, RequestCode, RequestError};
use crate::model::{FetchTarget, Location, Params, Property, RequestId, RequestKind};
use crate::name::{FullTrackName, Namespace};
use crate::session::SetupOptions;
use crate::token::TokenAction;

/// A control message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Setup(Setup),
    GoAway {
        uri: String,
        timeout_ms: Option<u64>,
        request: Option<RequestId>,
    },
    MaxRequestId {
        max: u64,
    },
    RequestsBlocked {
        max: u64,
    },
    Subscribe {
        request: RequestId,
        track: FullTrackName,
        params: Params,
    },
    SubscribeOk {
        request: RequestId,
        alias: u64,
        params: Params,
        properties: Vec<Property>,
    },
    Update {
        request: RequestId,
        target: RequestId,
        params: Params,
    },
    Unsubscribe {
        request: RequestId,
    },
    Publish {
        request: RequestId,
        track: FullTrackName,
        alias: u64,
        params: Params,
        properties: Vec<Property>,
    },
    PublishOk {
        request: RequestId,
        params: Params,
    },
    PublishDone {
        request: RequestId,
        code: DoneCode,
        streams: Option<u64>,
        reason: String,
    },
    PublishState {
        request: RequestId,
        params: Params,
    },
    PublishBlocked {
        suffix: Namespace,
        name: bytes::Bytes,
    },
    Fetch {
        request: RequestId,
        target: FetchTarget,
        params: Params,
    },
    FetchOk {
        request: RequestId,
        end_of_track: bool,
        end: Location,
        params: Params,
        properties: Vec<Property>,
    },
    FetchCancel {
        request: RequestId,
    },
    TrackStatus {
        request: RequestId,
        track: FullTrackName,
        params: Params,
    },
    PublishNamespace {
        request: RequestId,
        namespace: Namespace,
        params: Params,
    },
    PublishNamespaceDone {
        request: RequestId,
    },
    PublishNamespaceCancel {
        request: RequestId,
        code: RequestCode,
        reason: String,
    },
    SubscribeNamespace {
        request: RequestId,
        prefix: Namespace,
        want: Want,
        params: Params,
    },
    /// Ends a namespace subscription where no stream can say so.
    UnsubscribeNamespace {
        request: RequestId,
    },
    Namespace {
        suffix: Namespace,
    },
    NamespaceDone {
        suffix: Namespace,
    },
    RequestOk {
        request: RequestId,
        params: Params,
        properties: Vec<Property>,
    },
    RequestError {
        request: RequestId,
        error: RequestError,
    },
}

/// SETUP of either side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Setup {
    pub(crate) options: SetupOptions,
    pub(crate) max_request_id: Option<u64>,
    pub(crate) token_cache_bytes: Option<u64>,
    pub(crate) filter_ranges: Option<u64>,
    pub(crate) request_updates: Option<u64>,
}

/// What a namespace subscription asks to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    Namespaces,
    Tracks,
    Both,
}

/// A message as read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub(crate) message: Message,
    pub(crate) aside: Aside,
}

/// What a message says beside the model.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Aside {
    /// Token parameters, still actions against the session's cache.
    pub(crate) tokens: Vec<TokenAction>,
    /// The request can be read but must be refused; first flaw found.
    pub(crate) refusal: Option<RequestError>,
    /// What it names beside its request id, or instead.
    pub(crate) about: About,
}

/// How a draft that says things in full names the request a message is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct About {
    /// Its kind: each has answers of its own type.
    pub(crate) kind: Option<RequestKind>,
    /// Its namespace or prefix, in place of its id.
    pub(crate) namespace: Option<Namespace>,
}

/// Stands for a request id that is not on the wire; no id reaches it, since ids are below 2^64-1 by
/// parity or by MAX_REQUEST_ID.
pub(crate) const NO_REQUEST: RequestId = RequestId(u64::MAX);

/// Which message; decides scope of parameters and where a message may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Setup,
    /// The server's SETUP, where it reads otherwise than the client's.
    ServerSetup,
    GoAway,
    MaxRequestId,
    RequestsBlocked,
    Subscribe,
    SubscribeOk,
    Update,
    Unsubscribe,
    Publish,
    PublishOk,
    PublishDone,
    PublishState,
    PublishBlocked,
    Fetch,
    FetchOk,
    FetchCancel,
    TrackStatus,
    PublishNamespace,
    PublishNamespaceDone,
    PublishNamespaceCancel,
    SubscribeNamespace,
    SubscribeTracks,
    UnsubscribeNamespace,
    Namespace,
    NamespaceDone,
    RequestOk,
    RequestError,
    /// REQUEST_OK to requests of one kind only.
    OkTo(RequestKind),
    /// REQUEST_ERROR to requests of one kind only.
    ErrorTo(RequestKind),
    /// No message: the inside of FILL_PARAMETERS, a parameter scope of its own.
    Fill,
}

impl Kind {
    /// The specification's name, for reasons.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Setup => "SETUP",
            Self::ServerSetup => "SERVER_SETUP",
            Self::GoAway => "GOAWAY",
            Self::MaxRequestId => "MAX_REQUEST_ID",
            Self::RequestsBlocked => "REQUESTS_BLOCKED",
            Self::Subscribe => "SUBSCRIBE",
            Self::SubscribeOk => "SUBSCRIBE_OK",
            Self::Update => "REQUEST_UPDATE",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::Publish => "PUBLISH",
            Self::PublishOk => "PUBLISH_OK",
            Self::PublishDone => "PUBLISH_DONE",
            Self::PublishState => "PUBLISH_STATE_NOTIFY",
            Self::PublishBlocked => "PUBLISH_BLOCKED",
            Self::Fetch => "FETCH",
            Self::FetchOk => "FETCH_OK",
            Self::FetchCancel => "FETCH_CANCEL",
            Self::TrackStatus => "TRACK_STATUS",
            Self::PublishNamespace => "PUBLISH_NAMESPACE",
            Self::PublishNamespaceDone => "PUBLISH_NAMESPACE_DONE",
            Self::PublishNamespaceCancel => "PUBLISH_NAMESPACE_CANCEL",
            Self::SubscribeNamespace => "SUBSCRIBE_NAMESPACE",
            Self::SubscribeTracks => "SUBSCRIBE_TRACKS",
            Self::Namespace => "NAMESPACE",
            Self::NamespaceDone => "NAMESPACE_DONE",
            Self::RequestOk => "REQUEST_OK",
            Self::RequestError => "REQUEST_ERROR",
            Self::UnsubscribeNamespace => "UNSUBSCRIBE_NAMESPACE",
            Self::OkTo(kind) => match kind {
                RequestKind::PublishNamespace => "PUBLISH_NAMESPACE_OK",
                RequestKind::SubscribeNamespace => "SUBSCRIBE_NAMESPACE_OK",
                _ => "TRACK_STATUS_OK",
            },
            Self::ErrorTo(kind) => match kind {
                RequestKind::Subscribe => "SUBSCRIBE_ERROR",
                RequestKind::Publish => "PUBLISH_ERROR",
                RequestKind::Fetch => "FETCH_ERROR",
                RequestKind::PublishNamespace => "PUBLISH_NAMESPACE_ERROR",
                RequestKind::SubscribeNamespace => "SUBSCRIBE_NAMESPACE_ERROR",
                _ => "TRACK_STATUS_ERROR",
            },
            Self::Fill => "FILL_PARAMETERS",
        }
    }

    /// SETUP of either side.
    pub(crate) const fn is_setup(self) -> bool {
        matches!(self, Self::Setup | Self::ServerSetup)
    }

    /// The request this message opens, if it opens one.
    pub(crate) const fn opens(self) -> Option<RequestKind> {
        match self {
            Self::Subscribe => Some(RequestKind::Subscribe),
            Self::Publish => Some(RequestKind::Publish),
            Self::Fetch => Some(RequestKind::Fetch),
            Self::TrackStatus => Some(RequestKind::TrackStatus),
            Self::PublishNamespace => Some(RequestKind::PublishNamespace),
            Self::SubscribeNamespace => Some(RequestKind::SubscribeNamespace),
            Self::SubscribeTracks => Some(RequestKind::SubscribeTracks),
            _ => None,
        }
    }
}

impl Message {
    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Setup(_) => Kind::Setup,
            Self::GoAway { .. } => Kind::GoAway,
            Self::MaxRequestId { .. } => Kind::MaxRequestId,
            Self::RequestsBlocked { .. } => Kind::RequestsBlocked,
            Self::Subscribe { .. } => Kind::Subscribe,
            Self::SubscribeOk { .. } => Kind::SubscribeOk,
            Self::Update { .. } => Kind::Update,
            Self::Unsubscribe { .. } => Kind::Unsubscribe,
            Self::Publish { .. } => Kind::Publish,
            Self::PublishOk { .. } => Kind::PublishOk,
            Self::PublishDone { .. } => Kind::PublishDone,
            Self::PublishState { .. } => Kind::PublishState,
            Self::PublishBlocked { .. } => Kind::PublishBlocked,
            Self::Fetch { .. } => Kind::Fetch,
            Self::FetchOk { .. } => Kind::FetchOk,
            Self::FetchCancel { .. } => Kind::FetchCancel,
            Self::TrackStatus { .. } => Kind::TrackStatus,
            Self::PublishNamespace { .. } => Kind::PublishNamespace,
            Self::PublishNamespaceDone { .. } => Kind::PublishNamespaceDone,
            Self::PublishNamespaceCancel { .. } => Kind::PublishNamespaceCancel,
            Self::SubscribeNamespace { want: Want::Tracks, .. } => Kind::SubscribeTracks,
            Self::SubscribeNamespace { .. } => Kind::SubscribeNamespace,
            Self::UnsubscribeNamespace { .. } => Kind::UnsubscribeNamespace,
            Self::Namespace { .. } => Kind::Namespace,
            Self::NamespaceDone { .. } => Kind::NamespaceDone,
            Self::RequestOk { .. } => Kind::RequestOk,
            Self::RequestError { .. } => Kind::RequestError,
        }
    }

    /// The parameters a message carries.
    pub(crate) fn params_mut(&mut self) -> Option<&mut Params> {
        match self {
            Self::Subscribe { params, .. }
            | Self::SubscribeOk { params, .. }
            | Self::Update { params, .. }
            | Self::Publish { params, .. }
            | Self::PublishOk { params, .. }
            | Self::PublishState { params, .. }
            | Self::Fetch { params, .. }
            | Self::FetchOk { params, .. }
            | Self::TrackStatus { params, .. }
            | Self::PublishNamespace { params, .. }
            | Self::SubscribeNamespace { params, .. }
            | Self::RequestOk { params, .. } => Some(params),
            _ => None,
        }
    }
}
