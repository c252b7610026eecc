//! What a session says when it closes over bytes it cannot follow: the message, the field, the offset.

use super::*;

fn setup_of(draft: Draft) -> (bool, &'static [u8]) {
    match draft {
        Draft::D14 => SETUP_14,
        Draft::D16 => SETUP_16,
        _ => SETUP_18,
    }
}

/// The reason for which a server of `draft` closes after SETUP and these bytes.
fn reason(draft: Draft, bidi: bool, bytes: &[u8]) -> String {
    let whole: Vec<u8>;
    let setup = setup_of(draft);
    let streams: Vec<(bool, &[u8])> =
        if draft.codec().rules().control == Control::ClientBidi && bidi {
            whole = [setup.1, bytes].concat();
            vec![(true, &whole)]
        } else if draft.codec().rules().control == Control::ClientBidi {
            vec![setup, (false, bytes)]
        } else {
            vec![setup, (bidi, bytes)]
        };
    match server_after(draft, &streams) {
        Ok(_) => panic!("{draft:?} took {bytes:?}"),
        Err(error) => error.reason,
    }
}

#[test]
fn a_malformed_message_is_named_with_its_field_and_offset() {
    each_draft(|draft| {
        let bidi = draft.codec().rules().control == Control::ClientBidi;
        let setup = if bidi { setup_of(draft).1.len() } else { 0 };
        let unknown = reason(draft, true, &[0x3F, 0, 0]);
        assert_eq!(unknown, format!("message type at byte {setup}: 0x3f is unknown"));
        if draft.codec().rules().in_full {
            return;
        }
        for (bytes, said) in [
            // SUBSCRIBE: a track name longer than the message; a parameter the draft lacks; a FORWARD of 2.
            (&[3, 0, 5, 0, 1, 1, b'n', 9][..], "SUBSCRIBE: track name at byte 5: length 9"),
            (
                &[3, 0, 9, 0, 1, 1, b'n', 1, b't', 1, 0x3E, 0][..],
                "SUBSCRIBE: parameter type at byte 8",
            ),
            (&[3, 0, 9, 0, 1, 1, b'n', 1, b't', 1, 0x10, 2][..], "SUBSCRIBE: FORWARD at byte 9: 2"),
            (&[3, 0, 8, 0, 1, 1, b'n', 1, b't', 0, 7][..], "SUBSCRIBE: end at byte 7: 1 trailing"),
            // An empty namespace field.
            (&[6, 0, 4, 0, 1, 0, 0][..], "PUBLISH_NAMESPACE: track namespace at byte 3"),
        ] {
            let reason = reason(draft, true, bytes);
            assert!(reason.starts_with(said), "{draft:?}: {reason}, not {said}");
        }
    });
}

#[test]
fn a_malformed_message_of_draft_14_is_named_with_its_field_and_offset() {
    for (bytes, said) in [
        (&[3, 0, 5, 0, 1, 1, b'n', 9][..], "SUBSCRIBE: track name at byte 5: length 9"),
        // A FORWARD of 2, a filter of type 9, two bytes too many.
        (&[3, 0, 9, 0, 1, 1, b'n', 1, b't', 1, 1, 2][..], "SUBSCRIBE: forward at byte 9: 2"),
        (&[3, 0, 10, 0, 1, 1, b'n', 1, b't', 1, 1, 1, 9][..], "SUBSCRIBE: filter type at byte 10"),
        (
            &[3, 0, 13, 0, 1, 1, b'n', 1, b't', 1, 1, 1, 2, 0, 7, 7][..],
            "SUBSCRIBE: end at byte 11: 2 trailing",
        ),
        (&[2, 0, 5, 0, 0, 7, 0, 3][..], "SUBSCRIBE_UPDATE: end group at byte 5"),
        (&[6, 0, 3, 0, 0, 0][..], "PUBLISH_NAMESPACE: track namespace at byte 2: has no fields"),
        (&[0x11, 0, 3, 0, 0, 0][..], "SUBSCRIBE_NAMESPACE: track namespace at byte 2: has no"),
        (&[0x14, 0, 1, 0][..], "UNSUBSCRIBE_NAMESPACE: track namespace at byte 1: has no"),
        (&[0x1F, 0, 2, 0, 4][..], "PUBLISH_ERROR: reason at byte 2"),
        (&[0x0E, 0, 4, 0, 0, 0, 0][..], "TRACK_STATUS_OK: group order at byte 4: 0 is out"),
    ] {
        let reason = reason(Draft::D14, true, bytes);
        assert!(reason.starts_with(said), "{reason}, not {said}");
    }
}

#[test]
fn a_malformed_data_stream_is_named_with_its_field_and_offset() {
    each_draft(|draft| {
        for (bytes, said) in [
            (&[0x3E, 1, 1][..], "data stream: stream type at byte 1: 0x3e"),
            (&[0x08, 1, 1][..], "data stream: stream type at byte 1: 0x8"),
        ] {
            let reason = reason(draft, false, bytes);
            assert!(reason.starts_with(said), "{draft:?}: {reason}, not {said}");
        }
        // Header of 4 bytes, an object of 2 and its payload of 3, then a status of 9.
        let mut pair = Pair::ready(draft);
        pair.subscribed(7);
        let stream = pair.open(Dir::Uni);
        let data = [0x10, 7, 0, 128, 0, 3, b'a', b'b', b'c', 0, 0, 9];
        pair.piece = 2;
        pair.deliver(CLIENT, stream, &data, false);
        let reason = pair.closed[CLIENT].take().unwrap().reason;
        assert_eq!(reason, "data stream: object status at byte 12: 9 is unknown", "{draft:?}");
    });
}

#[test]
fn a_malformed_datagram_is_named_with_its_field_and_offset() {
    each_draft(|draft| {
        for (bytes, said) in [
            (&[0x10, 1, 1][..], "datagram: type at byte 1: 0x10 is unknown"),
            (&[0x00, 1][..], "datagram: head at byte 2: ends inside a field"),
            (&[0x01, 1, 1, 1, 9, 0][..], "datagram: properties at byte 6: are announced and empty"),
        ] {
            let mut pair = Pair::ready(draft);
            let error = pair.ends[CLIENT].handle_datagram(Bytes::copy_from_slice(bytes));
            assert_eq!(error.unwrap_err().reason, said, "{draft:?}");
        }
    });
}

#[test]
fn a_stream_that_ends_inside_a_message_is_named_with_its_offset() {
    let stream = StreamId(40);
    each_draft(|draft| {
        if draft.codec().rules().control == Control::ClientBidi {
            return;
        }
        let mut server = server_after(draft, &[SETUP_18]).unwrap();
        let half = Bytes::from_static(&[6, 0, 5, 0, 1]);
        let error = server.handle_stream(stream, Dir::Bi, half, true).unwrap_err();
        assert_eq!(error.reason, "request stream: message at byte 0: the stream ends inside it");
    });
}
