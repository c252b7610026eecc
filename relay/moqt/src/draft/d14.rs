//! Draft 14: RFC 9000 varints, one bidirectional control stream that carries everything, a version list
//! in SETUP, and what later became parameters as fixed fields. Answers have a type for each kind of
//! request. Section numbers are those of draft-ietf-moq-transport-14.

mod read;
mod write;

use bytes::{Bytes, BytesMut};

use super::pairs::{self, SetupRules};
use super::{Codec, Control, Ending, Feature, Rules, lookup};
use crate::error::{CommandError, DoneCode, RequestCode, RequestError, ResetCode, SessionError};
use crate::message::{About, Aside, Decoded, Kind, Message};
use crate::model::{RequestId, RequestKind, Role};
use crate::varint::Ints;
use crate::wire::{Reader, frame};
use read::decode_body;
use write::encode_body;

pub(super) struct D14;

static RULES: Rules = Rules {
    ints: Ints::Quic,
    control: Control::ClientBidi,
    own_stream: |_| false,
    request_ids: true,
    in_full: true,
    pair_deltas: false,
    first_object_bit: false,
    fetch_deltas: false,
    padding: None,
    gap_timed_out: false,
    publish_ok_params: true,
    fin_ends_namespace: false,
    // SUBSCRIBE_NAMESPACE asks for namespaces and tracks alike (section 9.28).
    features: &[Feature::JoiningFetch],
};

/// The only version of ours in the lists of SETUP.
const VERSION: u64 = 0xFF00_000E;

const SETUP: SetupRules = SetupRules { request_ids: true, limits: false, deltas: false };

const CLIENT_SETUP: u64 = 0x20;
const SERVER_SETUP: u64 = 0x21;

/// Type numbers (section 9, table 1), without the two SETUPs.
const KINDS: [(u64, Kind); 28] = [
    (0x02, Kind::Update),
    (0x03, Kind::Subscribe),
    (0x04, Kind::SubscribeOk),
    (0x05, Kind::ErrorTo(RequestKind::Subscribe)),
    (0x06, Kind::PublishNamespace),
    (0x07, Kind::OkTo(RequestKind::PublishNamespace)),
    (0x08, Kind::ErrorTo(RequestKind::PublishNamespace)),
    (0x09, Kind::PublishNamespaceDone),
    (0x0A, Kind::Unsubscribe),
    (0x0B, Kind::PublishDone),
    (0x0C, Kind::PublishNamespaceCancel),
    (0x0D, Kind::TrackStatus),
    (0x0E, Kind::OkTo(RequestKind::TrackStatus)),
    (0x0F, Kind::ErrorTo(RequestKind::TrackStatus)),
    (0x10, Kind::GoAway),
    (0x11, Kind::SubscribeNamespace),
    (0x12, Kind::OkTo(RequestKind::SubscribeNamespace)),
    (0x13, Kind::ErrorTo(RequestKind::SubscribeNamespace)),
    (0x14, Kind::UnsubscribeNamespace),
    (0x15, Kind::MaxRequestId),
    (0x16, Kind::Fetch),
    (0x17, Kind::FetchCancel),
    (0x18, Kind::FetchOk),
    (0x19, Kind::ErrorTo(RequestKind::Fetch)),
    (0x1A, Kind::RequestsBlocked),
    (0x1D, Kind::Publish),
    (0x1E, Kind::PublishOk),
    (0x1F, Kind::ErrorTo(RequestKind::Publish)),
];

/// Codes all error messages share (section 13.1). What a table lacks falls back to the nearest it has.
macro_rules! codes {
    ($($own:expr),* $(,)?) => {
        &[
            (0x00, RequestCode::Internal),
            (0x01, RequestCode::Unauthorized),
            (0x02, RequestCode::Timeout),
            (0x03, RequestCode::NotSupported),
            $($own,)*
            (0x03, RequestCode::UnsupportedExtension),
            (0x03, RequestCode::Redirect),
            (0x03, RequestCode::InvalidFilter),
            (0x03, RequestCode::UnknownStatus),
            (0x01, RequestCode::MalformedToken),
            (0x01, RequestCode::ExpiredToken),
        ]
    };
}

type Codes = &'static [(u64, RequestCode)];

/// SUBSCRIBE_ERROR and TRACK_STATUS_ERROR (section 13.1.2).
const SUBSCRIBE_CODES: Codes = codes![
    (0x04, RequestCode::DoesNotExist),
    (0x05, RequestCode::InvalidRange),
    (0x10, RequestCode::MalformedToken),
    (0x12, RequestCode::ExpiredToken),
];

/// PUBLISH_ERROR (section 13.1.4).
const PUBLISH_CODES: Codes = codes![(0x04, RequestCode::Uninterested)];

/// FETCH_ERROR (section 13.1.5). "No objects" is what an invalid range became.
const FETCH_CODES: Codes = codes![
    (0x04, RequestCode::DoesNotExist),
    (0x05, RequestCode::InvalidRange),
    (0x06, RequestCode::InvalidRange),
    (0x07, RequestCode::InvalidJoiningRequest),
    (0x08, RequestCode::UnknownStatus),
    (0x09, RequestCode::MalformedTrack),
    (0x10, RequestCode::MalformedToken),
    (0x12, RequestCode::ExpiredToken),
];

/// PUBLISH_NAMESPACE_ERROR and PUBLISH_NAMESPACE_CANCEL (section 13.1.6).
const PUBLISH_NAMESPACE_CODES: Codes = codes![
    (0x04, RequestCode::Uninterested),
    (0x10, RequestCode::MalformedToken),
    (0x12, RequestCode::ExpiredToken),
];

/// SUBSCRIBE_NAMESPACE_ERROR (section 13.1.7).
const SUBSCRIBE_NAMESPACE_CODES: Codes = codes![
    (0x04, RequestCode::DoesNotExist),
    (0x05, RequestCode::PrefixOverlap),
    (0x05, RequestCode::NamespaceTooLarge),
    (0x10, RequestCode::MalformedToken),
    (0x12, RequestCode::ExpiredToken),
];

fn codes_of(kind: RequestKind) -> Codes {
    match kind {
        RequestKind::Publish => PUBLISH_CODES,
        RequestKind::Fetch => FETCH_CODES,
        RequestKind::PublishNamespace => PUBLISH_NAMESPACE_CODES,
        RequestKind::SubscribeNamespace => SUBSCRIBE_NAMESPACE_CODES,
        _ => SUBSCRIBE_CODES,
    }
}

/// PUBLISH_DONE codes (section 13.1.3).
const DONE_CODES: [(u64, DoneCode); 10] = [
    (0x00, DoneCode::Internal),
    (0x01, DoneCode::Unauthorized),
    (0x02, DoneCode::TrackEnded),
    (0x03, DoneCode::SubscriptionEnded),
    (0x04, DoneCode::GoingAway),
    (0x05, DoneCode::Expired),
    (0x06, DoneCode::TooFarBehind),
    (0x07, DoneCode::MalformedTrack),
    (0x00, DoneCode::UpdateFailed),
    (0x00, DoneCode::ExcessiveLoad),
];

/// Stream count of a publisher that does not know it.
const STREAMS_UNKNOWN: u64 = (1 << 62) - 1;

impl Codec for D14 {
    fn rules(&self) -> &'static Rules {
        &RULES
    }

    fn kind(&self, number: u64, sender: Role) -> Option<Kind> {
        match (number, sender) {
            (CLIENT_SETUP, Role::Client) => Some(Kind::Setup),
            (SERVER_SETUP, Role::Server) => Some(Kind::ServerSetup),
            _ => lookup(&KINDS, number),
        }
    }

    fn decode(&self, kind: Kind, body: Bytes, _stream: RequestId) -> Result<Decoded, SessionError> {
        let name = match kind {
            Kind::Setup => "CLIENT_SETUP",
            Kind::Update => "SUBSCRIBE_UPDATE",
            kind => kind.name(),
        };
        let mut r = Reader::new(name, Ints::Quic, body);
        let mut aside = Aside::default();
        let message = decode_body(&mut r, kind, &mut aside)?;
        r.finish()?;
        Ok(Decoded { message, aside })
    }

    fn encode(
        &self,
        message: &Message,
        sender: Role,
        out: &mut BytesMut,
    ) -> Result<(), CommandError> {
        self.encode_about(message, &About::default(), sender, out)
    }

    fn encode_about(
        &self,
        message: &Message,
        about: &About,
        sender: Role,
        out: &mut BytesMut,
    ) -> Result<(), CommandError> {
        let kind = match (message, about.kind) {
            (Message::Setup(setup), _) => {
                let (number, client) = match sender {
                    Role::Client => (CLIENT_SETUP, true),
                    Role::Server => (SERVER_SETUP, false),
                };
                return frame(Ints::Quic, number, out, |w| {
                    // A list of one, or the one chosen (section 9.3).
                    if client {
                        w.int("number of versions", 1);
                    }
                    w.int("version", VERSION);
                    pairs::write_setup(w, setup, true, SETUP);
                });
            }
            (Message::RequestOk { .. }, Some(kind)) => Kind::OkTo(kind),
            (Message::RequestError { .. }, Some(kind)) => Kind::ErrorTo(kind),
            // Both halves are one message.
            (Message::SubscribeNamespace { .. }, _) => Kind::SubscribeNamespace,
            _ => message.kind(),
        };
        let Some((number, _)) = KINDS.iter().find(|(_, known)| *known == kind) else {
            return Err(CommandError::NotEncodable("a message of another draft"));
        };
        frame(Ints::Quic, *number, out, |w| encode_body(w, message, about))
    }

    fn cancel(&self, kind: RequestKind, request: RequestId) -> Ending {
        match kind {
            RequestKind::Subscribe => message(Message::Unsubscribe { request }),
            RequestKind::Fetch => message(Message::FetchCancel { request }),
            RequestKind::PublishNamespace => message(Message::PublishNamespaceDone { request }),
            RequestKind::SubscribeNamespace | RequestKind::SubscribeTracks => {
                message(Message::UnsubscribeNamespace { request })
            }
            RequestKind::Publish => message(Message::PublishDone {
                request,
                code: DoneCode::SubscriptionEnded,
                streams: None,
                reason: String::new(),
            }),
            RequestKind::TrackStatus | RequestKind::Update => Ending::Silent,
        }
    }

    fn revoke(&self, kind: RequestKind, request: RequestId, error: &RequestError) -> Ending {
        match kind {
            RequestKind::PublishNamespace => message(Message::PublishNamespaceCancel {
                request,
                code: error.code,
                reason: error.reason.clone(),
            }),
            RequestKind::Publish => message(Message::Unsubscribe { request }),
            _ => Ending::Silent,
        }
    }

    fn reset_code(&self, code: ResetCode) -> u32 {
        match code {
            ResetCode::Cancelled => 0x1,
            ResetCode::DeliveryTimeout => 0x2,
            ResetCode::SessionClosed => 0x3,
            _ => 0x0,
        }
    }
}

fn message(message: Message) -> Ending {
    Ending::Message(Box::new(message))
}

const DELIVERY_TIMEOUT: u64 = 0x02;
const TOKEN: u64 = 0x03;
const MAX_CACHE_DURATION: u64 = 0x04;
/// The track property that the group order of an answer became.
const GROUP_ORDER: u64 = 0x22;
