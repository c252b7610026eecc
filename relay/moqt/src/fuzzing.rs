//! Entry points for fuzzers: plain functions that must neither panic nor grow without bound, whatever
//! the bytes. The bytes choose operations, so that a corpus can be kept and replayed.

use bytes::Bytes;

use crate::data::{Datagram, Decoder, convert_properties, find, integer_property};
use crate::draft::{Draft, Feature};
use crate::error::{DoneCode, RequestCode, RequestError};
use crate::limits::Limits;
use crate::model::{Dir, Location, OpenKey, Params, RequestId, Role, StreamId, Transport};
use crate::name::{FullTrackName, Namespace};
use crate::session::{Event, Output, Session, SetupOptions};

/// The draft a byte of an input stands for. The first two keep what older inputs mean; later drafts are
/// added behind.
pub fn draft_of(byte: u8) -> Draft {
    const ORDER: [Draft; 7] =
        [Draft::D18, Draft::D16, Draft::D22, Draft::D20, Draft::D19, Draft::D21, Draft::D14];
    ORDER.into_iter().cycle().nth(usize::from(byte)).unwrap_or(Draft::D18)
}

/// Reads `bytes` as messages of `draft`; what decodes must survive being written and read again.
pub fn fuzz_control(draft: Draft, bytes: &[u8]) {
    let codec = draft.codec();
    let ints = codec.rules().ints;
    for sender in [Role::Client, Role::Server] {
        let Some((number, head)) = ints.decode(bytes) else { return };
        let Some(kind) = codec.kind(number, sender) else { continue };
        let body = Bytes::copy_from_slice(bytes.get(head..).unwrap_or_default());
        let Ok(first) = codec.decode(kind, body, RequestId(0)) else { continue };
        let mut out = bytes::BytesMut::new();
        let about = &first.aside.about;
        if !first.aside.tokens.is_empty()
            || codec.encode_about(&first.message, about, sender, &mut out).is_err()
        {
            continue;
        }
        let body = ints.decode(&out).map_or(0, |(_, head)| head + 2);
        let again = codec.decode(kind, out.freeze().slice(body..), RequestId(0));
        assert_eq!(again.map(|again| again.message), Ok(first.message), "{draft:?}");
    }
}

/// Reads `bytes` as a data stream and as a datagram of `draft`. The first byte chooses how large the
/// pieces are in which the rest arrives.
pub fn fuzz_data(draft: Draft, bytes: &[u8]) {
    let Some((&step, rest)) = bytes.split_first() else { return };
    let _ = Datagram::decode(draft, Bytes::copy_from_slice(rest));
    let mut decoder = Decoder::new(draft, 256, 1 << 20);
    for piece in rest.chunks(usize::from(step).max(1)) {
        decoder.push(Bytes::copy_from_slice(piece));
        loop {
            match decoder.next() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(decoder.buffered() <= 256 + 128, "{} bytes held", decoder.buffered());
    }
    let _ = decoder.finish();
}

/// Reads `bytes` as the properties of an object of `draft`: looks for the integer whose type the first byte is, and
/// rewrites them for every other draft, where the same must be found.
pub fn fuzz_properties(draft: Draft, bytes: &[u8]) {
    let Some((&kind, rest)) = bytes.split_first() else { return };
    let (kind, block) = (u64::from(kind), Bytes::copy_from_slice(rest));
    let _ = integer_property(draft, &block, kind);
    // Among the outermost pairs: immutable ones that are no list of pairs stay as they are, and mean something else there.
    let outermost = |draft: Draft, block: &[u8]| find(draft.codec().rules(), block, kind, false);
    for to in Draft::ALL {
        let Some(converted) = convert_properties(draft, to, &block) else { continue };
        // A type of one byte may become eight, a value or a length of one byte two or four.
        assert!(converted.len() <= 8 * block.len(), "{draft:?} {to:?}");
        assert_eq!(outermost(to, &converted), outermost(draft, &block), "{draft:?} {to:?}");
    }
}

/// Runs `bytes` as a sequence of operations against a session: stream bytes, framed messages, resets,
/// commands and answers. The first byte chooses draft, role and transport, and whether an honest SETUP
/// of the peer comes first.
pub fn fuzz_session(bytes: &[u8]) {
    let Some((&shape, mut rest)) = bytes.split_first() else { return };
    // Bits 0 and 4 to 6; the first two values mean what they did when there were two drafts.
    let draft = match draft_of((shape & 1) | (shape >> 3 & 0x0E)) {
        Draft::D18 => Draft::D16,
        Draft::D16 => Draft::D18,
        draft => draft,
    };
    let role = if shape & 2 == 0 { Role::Server } else { Role::Client };
    let transport = if shape & 4 == 0 { Transport::Quic } else { Transport::WebTransport };
    let limits = Limits {
        open_requests: 8,
        own_requests: 8,
        namespaces: 4,
        advertised: 8,
        before_setup_bytes: 512,
        before_setup_streams: 4,
        pending_streams: 4,
        pending_bytes: 512,
        data_streams: 16,
        object_bytes: 1 << 16,
        property_bytes: 128,
        filter_ranges: 4,
        request_updates: 2,
        ..Limits::default()
    };
    let mut session = Session::new(draft, role, transport, limits, SetupOptions::default());
    let mut opened = 1000;
    if shape & 8 == 0 {
        honest_setup(&mut session, transport);
    }
    while let Some((&[op, arg], after)) = rest.split_first_chunk::<2>() {
        rest = after;
        let stream = StreamId(u64::from(arg & 0x1F));
        let request = RequestId(u64::from(arg));
        let step = match op % 12 {
            4 => {
                let (body, after) = rest.split_at(usize::from(op >> 3).min(rest.len()));
                rest = after;
                let kind = body.first().copied().unwrap_or_default() & 0x3F;
                let mut message = vec![kind, 0, body.len().saturating_sub(1) as u8];
                message.extend(body.iter().skip(1));
                let dir = if arg & 0x40 == 0 { Dir::Bi } else { Dir::Uni };
                session.handle_stream(stream, dir, message.into(), arg & 0x80 != 0)
            }
            0..=3 => {
                let dir = if arg & 0x40 == 0 { Dir::Bi } else { Dir::Uni };
                let (data, after) = rest.split_at(usize::from(op >> 2).min(rest.len()));
                rest = after;
                session.handle_stream(stream, dir, Bytes::copy_from_slice(data), arg & 0x80 != 0)
            }
            5 => session.handle_reset(stream, u64::from(op)),
            6 => session.handle_stop(stream, u64::from(op)),
            7 => session.handle_datagram(Bytes::copy_from_slice(rest.get(..8).unwrap_or(rest))),
            _ => {
                fuzz_command(&mut session, op, request);
                Ok(())
            }
        };
        if step.is_err() {
            return;
        }
        while let Some(output) = session.poll_output() {
            if let Output::Open { key: OpenKey(key), .. } = output {
                opened += 1;
                let _ = session.stream_opened(OpenKey(key), StreamId(opened));
            }
        }
        while let Some(event) = session.poll_event() {
            fuzz_answer(&mut session, &event, op);
        }
    }
}

/// Brings a session past SETUP, as a peer of its own kind would.
fn honest_setup(session: &mut Session, transport: Transport) {
    let role = match session.role() {
        Role::Client => Role::Server,
        Role::Server => Role::Client,
    };
    let options = SetupOptions::default();
    let mut peer = Session::new(session.draft(), role, transport, Limits::default(), options);
    let control = StreamId(0x1F);
    let mut dir = Dir::Bi;
    while let Some(output) = session.poll_output() {
        match output {
            Output::Open { key, dir: Dir::Bi } => drop(session.stream_opened(key, control)),
            Output::Open { key, dir: Dir::Uni } => drop(session.stream_opened(key, StreamId(0x3F))),
            // A server of one bidirectional control stream answers only when it is spoken to.
            Output::Write { stream, data, .. } if stream == control => {
                drop(peer.handle_stream(control, Dir::Bi, data, false));
            }
            _ => {}
        }
    }
    while let Some(output) = peer.poll_output() {
        match output {
            Output::Open { key, dir: theirs } => {
                dir = theirs;
                drop(peer.stream_opened(key, control));
            }
            Output::Write { data, .. } => drop(session.handle_stream(control, dir, data, false)),
            _ => {}
        }
    }
}

fn fuzz_command(session: &mut Session, op: u8, request: RequestId) {
    let track = FullTrackName::new(Namespace::default(), "t");
    match (op / 12 % 13, track) {
        (0, Ok(track)) => drop(session.subscribe(&track, Params::default())),
        (1, Ok(track)) => drop(session.track_status(&track, Params::default())),
        (2, _) => drop(session.publish_namespace(&Namespace::default(), Params::default())),
        (3, _) => drop(session.subscribe_namespace(&Namespace::default(), Params::default())),
        (4, _) => {
            let fill = session.supports(Feature::Fill).then(Box::default);
            drop(session.update(request, Params { fill, ..Params::default() }));
        }
        (5, _) => session.cancel(request),
        (6, _) => drop(session.publish_done(request, DoneCode::TrackEnded, None, "")),
        (7, Ok(track)) => drop(session.publish(&track, request.0, Params::default(), &[])),
        (8, _) => drop(session.subscribe_tracks(&Namespace::default(), Params::default())),
        (9, _) => drop(session.publish_state(request, Params::default())),
        (10, _) => {
            drop(session.publish_blocked(request, &Namespace::default(), &Bytes::new()));
        }
        (11, _) => drop(session.goaway_request(request, "", 1)),
        _ => drop(session.goaway("", 1)),
    }
}

fn fuzz_answer(session: &mut Session, event: &Event, op: u8) {
    let refuse = op & 0x10 != 0;
    let error = RequestError::new(RequestCode::DoesNotExist, "no");
    match event {
        Event::Subscribe { request, .. } if !refuse => {
            drop(session.accept_subscribe(*request, request.0, Params::default(), &[]));
        }
        Event::Fetch { request, .. } if !refuse => {
            let end = Location::whole_group(0);
            drop(session.accept_fetch(*request, false, end, Params::default(), &[]));
        }
        Event::TrackStatus { request, .. }
        | Event::PublishNamespace { request, .. }
        | Event::SubscribeNamespace { request, .. }
        | Event::SubscribeTracks { request, .. }
        | Event::Publish { request, .. }
            if !refuse =>
        {
            drop(session.accept(*request, Params::default(), &[]));
        }
        Event::Update { update, .. } if !refuse => {
            drop(session.accept(*update, Params::default(), &[]));
        }
        Event::Subscribe { request, .. }
        | Event::Fetch { request, .. }
        | Event::TrackStatus { request, .. }
        | Event::PublishNamespace { request, .. }
        | Event::SubscribeNamespace { request, .. }
        | Event::SubscribeTracks { request, .. }
        | Event::Publish { request, .. }
        | Event::Update { update: request, .. } => drop(session.reject(*request, &error)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn properties_mean_the_same_in_every_draft(
            draft in 0..7_u8,
            kind in 0..12_u8,
            pairs in prop::collection::vec((0..14_u8, 0..70_u8), 0..6),
            noise in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let plain = pairs.into_iter().flat_map(|(key, value)| [key, value]);
            let bytes: Vec<u8> = [kind].into_iter().chain(plain).chain(noise).collect();
            fuzz_properties(draft_of(draft), &bytes);
        }
    }

    /// Otherwise the fuzzer would only ever see sessions that wait.
    #[test]
    fn an_honest_setup_is_taken_by_every_shape_of_session() {
        for draft in Draft::ALL {
            for role in [Role::Client, Role::Server] {
                for transport in [Transport::Quic, Transport::WebTransport] {
                    let (limits, options) = (Limits::default(), SetupOptions::default());
                    let mut session = Session::new(draft, role, transport, limits, options);
                    honest_setup(&mut session, transport);
                    let first = session.poll_event();
                    assert!(matches!(first, Some(Event::Setup { .. })), "{draft:?} {role:?}");
                }
            }
        }
    }
}
