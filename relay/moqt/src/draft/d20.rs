//! The tables of drafts 19 to 22, which share the codec of 18. 19 adds range filters and limits; 20 makes
//! fetches flat and replaces joining fetches by fills; 21 is 20 on the wire; 22 writes location filters
//! anew. Section numbers are those of draft-ietf-moq-transport-22 where nothing else is said.

use super::d18::{Family, KINDS, LAYOUT};
use super::pairs::SetupRules;
use super::params::{self, FilterForm, Form, Table};
use super::{Feature, Rules};
use crate::error::{DoneCode, RequestCode, SessionCode};
use crate::message::Kind;

pub(super) static D19: Family = Family {
    rules: &RULES_19,
    params: &PARAMS_19,
    setup: SETUP,
    kinds: &KINDS,
    request_codes: &REQUEST_CODES_19,
    done_codes: &DONE_CODES_19,
    goaway_names_request: false,
    fetch_by_filter: false,
    streams_unknown: (1 << 62) - 1,
};

pub(super) static D20: Family = Family { params: &PARAMS_20, ..NEWEST };

pub(super) static D22: Family = NEWEST;

const NEWEST: Family = Family {
    rules: &RULES_20,
    params: &PARAMS_22,
    setup: SETUP,
    kinds: &KINDS_20,
    request_codes: &REQUEST_CODES_20,
    done_codes: &DONE_CODES_20,
    goaway_names_request: false,
    fetch_by_filter: true,
    // Section 9.9.
    streams_unknown: u64::MAX,
};

const SETUP: SetupRules = SetupRules { request_ids: false, limits: true, deltas: true };

static RULES_19: Rules = Rules {
    fin_ends_namespace: false,
    features: &[
        Feature::SubscribeTracks,
        Feature::PublishBlocked,
        Feature::JoiningFetch,
        Feature::UnknownRanges,
        Feature::RequestGoAway,
        Feature::Redirect,
        Feature::Rendezvous,
        Feature::RangeFilters,
        Feature::ManySubscriptions,
    ],
    ..LAYOUT
};

static RULES_20: Rules = Rules {
    fin_ends_namespace: false,
    gap_timed_out: true,
    // EXPIRES alone may stand in a PUBLISH_OK (section 9.3).
    publish_ok_params: false,
    features: &[
        Feature::SubscribeTracks,
        Feature::PublishBlocked,
        Feature::Fill,
        Feature::PublishState,
        Feature::UnknownRanges,
        Feature::RequestGoAway,
        Feature::Redirect,
        Feature::Rendezvous,
        Feature::RangeFilters,
        Feature::ManySubscriptions,
    ],
    ..LAYOUT
};

static PARAMS_19: Table = Table {
    form: |key| match key {
        0x23 | 0x35 => None,
        key => form(key),
    },
    in_scope: in_scope_19,
    filter: FilterForm::Typed { end_absolute: false },
    ..PARAMS
};

static PARAMS_20: Table = Table { form, filter: FilterForm::Fields, ..PARAMS };

static PARAMS_22: Table = Table {
    form: |key| if key == 0x21 { Some(Form::Filter) } else { form(key) },
    filter: FilterForm::TypeLed,
    ..PARAMS
};

const PARAMS: Table = Table {
    form,
    in_scope: in_scope_20,
    skip_out_of_scope: false,
    zero_timeout_refused: false,
    zero_group_order_is_none: false,
    filter: FilterForm::Fields,
    filter_length_code: SessionCode::KeyValueFormatting,
};

/// The value encoding of each parameter (section 9.20).
fn form(key: u64) -> Option<Form> {
    match key {
        0x02 | 0x04 | 0x06 | 0x08 | 0x0A | 0x32 => Some(Form::Int),
        0x10 | 0x20 | 0x22 | 0x35 => Some(Form::Byte),
        0x09 => Some(Form::Location),
        0x34 => Some(Form::Namespace),
        0x03 | 0x21 | 0x23 | 0x25..=0x29 => Some(Form::Prefixed),
        _ => None,
    }
}

/// Scopes of draft 19: those of 18 where SUBSCRIBE_TRACKS takes all that a SUBSCRIBE does (section 5.1 of
/// draft 19), range filters beside.
fn in_scope_19(key: u64, kind: Kind) -> bool {
    use Kind as K;
    let of_publish_ok = matches!(kind, K::PublishOk | K::RequestOk);
    match key {
        0x02 | 0x04 | 0x06 | 0x20 | 0x21 | 0x32 if kind == K::SubscribeTracks => true,
        0x22 => matches!(kind, K::Subscribe | K::SubscribeTracks | K::Fetch),
        0x25..=0x28 => {
            of_publish_ok
                || matches!(kind, K::Fetch | K::Subscribe | K::SubscribeTracks | K::Update)
        }
        0x29 => matches!(kind, K::SubscribeTracks | K::Update),
        key => {
            params::in_scope(key, kind)
                || (kind == K::RequestOk && params::in_scope(key, K::PublishOk))
        }
    }
}

/// Scopes from draft 20 on. SUBSCRIBE_TRACKS takes a location filter and a fill by section 3.6.2, which its
/// own list leaves out. An update and a REQUEST_OK have the union of what the requests they belong to allow.
fn in_scope_20(key: u64, kind: Kind) -> bool {
    use Kind as K;
    if kind == K::Fill {
        // Section 9.20.15, table 7.
        return matches!(key, 0x0A | 0x20 | 0x21 | 0x22 | 0x25..=0x28);
    }
    match key {
        0x02 | 0x06 => matches!(kind, K::Subscribe | K::Publish | K::Update),
        0x03 | 0x04 | 0x0A | 0x34 => params::in_scope(key, kind),
        0x08 => matches!(kind, K::SubscribeOk | K::Publish | K::PublishOk | K::RequestOk),
        0x09 => matches!(kind, K::SubscribeOk | K::Publish | K::RequestOk | K::PublishState),
        0x10 => matches!(
            kind,
            K::Subscribe | K::Update | K::Publish | K::SubscribeTracks | K::PublishState
        ),
        0x20 => matches!(kind, K::Subscribe | K::Publish | K::Fetch | K::Update),
        0x21 => matches!(
            kind,
            K::Fetch | K::Subscribe | K::Publish | K::Update | K::PublishState | K::SubscribeTracks
        ),
        0x22 => matches!(kind, K::Subscribe | K::Publish | K::SubscribeTracks | K::Fetch),
        0x23 => matches!(kind, K::Subscribe | K::Update | K::SubscribeTracks),
        0x25..=0x28 => {
            matches!(kind, K::Fetch | K::Subscribe | K::SubscribeTracks | K::Update)
        }
        0x29 => matches!(kind, K::SubscribeTracks | K::Update),
        0x32 => matches!(kind, K::Subscribe | K::Update),
        0x35 => matches!(kind, K::Subscribe | K::TrackStatus | K::Fetch | K::SubscribeTracks),
        _ => false,
    }
}

/// Type numbers from draft 20 on (section 9, table 3).
const KINDS_20: [(u64, Kind); 19] = {
    let mut kinds = [(0x22, Kind::PublishState); 19];
    let mut at = 0;
    #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler; 18 of 19 are copied")]
    while at < KINDS.len() {
        kinds[at] = KINDS[at];
        at += 1;
    }
    kinds
};

/// REQUEST_ERROR codes of draft 19: two subscriptions to a track are no error any more.
const REQUEST_CODES_19: [(u64, RequestCode); 21] = [
    (0x00, RequestCode::Internal),
    (0x01, RequestCode::Unauthorized),
    (0x02, RequestCode::Timeout),
    (0x03, RequestCode::NotSupported),
    (0x04, RequestCode::MalformedToken),
    (0x05, RequestCode::ExpiredToken),
    (0x06, RequestCode::GoingAway),
    (0x09, RequestCode::ExcessiveLoad),
    (0x10, RequestCode::DoesNotExist),
    (0x11, RequestCode::InvalidRange),
    (0x12, RequestCode::MalformedTrack),
    (0x20, RequestCode::Uninterested),
    (0x30, RequestCode::PrefixOverlap),
    (0x31, RequestCode::NamespaceTooLarge),
    (0x33, RequestCode::UnsupportedExtension),
    (0x34, RequestCode::Redirect),
    (0x35, RequestCode::ConflictingFilters),
    (0x36, RequestCode::InvalidFilter),
    (0x32, RequestCode::InvalidJoiningRequest),
    // Whoever refuses them all the same does not support them.
    (0x03, RequestCode::DuplicateSubscription),
    (0x03, RequestCode::UnknownStatus),
];

/// From draft 20 on (section 16.11.2) there is no joining fetch to be wrong about.
const REQUEST_CODES_20: [(u64, RequestCode); 21] = {
    let mut codes = REQUEST_CODES_19;
    codes[18] = (0x03, RequestCode::InvalidJoiningRequest);
    codes
};

/// PUBLISH_DONE codes of draft 19.
const DONE_CODES_19: [(u64, DoneCode); 10] = [
    (0x00, DoneCode::Internal),
    (0x01, DoneCode::Unauthorized),
    (0x02, DoneCode::TrackEnded),
    (0x04, DoneCode::GoingAway),
    (0x05, DoneCode::TooFarBehind),
    (0x06, DoneCode::Expired),
    (0x08, DoneCode::UpdateFailed),
    (0x09, DoneCode::ExcessiveLoad),
    (0x12, DoneCode::MalformedTrack),
    (0x03, DoneCode::SubscriptionEnded),
];

/// From draft 20 on (section 16.11.3) a subscription does not end because its range is past.
const DONE_CODES_20: [(u64, DoneCode); 10] = {
    let mut codes = DONE_CODES_19;
    codes[9] = (0x00, DoneCode::SubscriptionEnded);
    codes
};
