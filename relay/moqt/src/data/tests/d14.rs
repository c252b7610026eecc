//! Streams and datagrams of draft 14: every form against `moqtap-codec`, both ways.

use moqtap_codec::draft14::data_stream as theirs;
use moqtap_codec::draft14::types::ObjectStatus;

use super::*;

const D: Draft = Draft::D14;

/// The headers of the other drafts that this one has too.
fn headers() -> impl Iterator<Item = (SubgroupHeader, u8)> {
    subgroup_headers()
        .into_iter()
        .filter(|(header, _)| header.priority.is_some() && !header.first_object)
}

fn their_header(header: &SubgroupHeader, mode: u8) -> theirs::SubgroupHeader {
    let stream_type = theirs::SubgroupStreamType::from_flags(
        mode == 2,
        mode == 1,
        header.properties,
        header.end_of_group,
    );
    theirs::SubgroupHeader {
        stream_type,
        track_alias: v(header.alias),
        group_id: v(header.group),
        subgroup_id: (mode == 2).then_some(v(header.subgroup)),
        publisher_priority: header.priority.unwrap(),
    }
}

fn their_object(object: &ObjectHeader) -> theirs::SubgroupObject {
    let payload = if object.payload_len > 0 { b"abc".to_vec() } else { vec![] };
    theirs::SubgroupObject {
        object_id: v(object.object),
        extension_headers: object.properties.to_vec(),
        status: ObjectStatus::from_u64(object.status.wire()).filter(|_| payload.is_empty()),
        payload,
    }
}

#[test]
fn subgroup_streams_agree() {
    let mut forms = 0;
    for (header, mode) in headers() {
        forms += 1;
        let head = their_header(&header, mode);
        let mut wire = Vec::new();
        head.encode_checked(&mut wire).unwrap();
        let mut writer = theirs::SubgroupObjectReader::new(&head);
        for object in objects(header.properties) {
            writer.write_object(&their_object(&object), &mut wire).unwrap();
        }
        assert_eq!(read_whole(D, &wire), expected(header), "theirs to ours");

        let mut wire = BytesMut::new();
        let mut encoder = SubgroupEncoder::new(D, &header, &mut wire).unwrap();
        for object in objects(header.properties) {
            encoder.object(&object, &mut wire).unwrap();
            wire.put_slice(if object.payload_len > 0 { b"abc" } else { b"" });
        }
        assert_eq!(read_whole(D, &wire), expected(header), "ours to ours");
        let mut wire = &wire[..];
        let read = theirs::SubgroupHeader::decode(&mut wire).unwrap();
        assert_eq!(read, their_header(&header, if header.subgroup == 0 { 0 } else { 2 }));
        let mut reader = theirs::SubgroupObjectReader::new(&read);
        for object in objects(header.properties) {
            let read = reader.read_object(&mut wire).unwrap();
            assert_eq!(read, their_object(&object), "ours to theirs");
        }
        assert!(wire.is_empty());
    }
    assert_eq!(forms, 12);
}

#[test]
fn a_stream_without_a_priority_is_written_with_the_default() {
    let header =
        SubgroupHeader { alias: 1, group: 2, priority: None, first_object: true, ..head() };
    let mut wire = BytesMut::new();
    SubgroupEncoder::new(D, &header, &mut wire).unwrap();
    assert_eq!(wire[..], [0x10, 1, 2, DEFAULT_PRIORITY]);
    // The bits of later drafts are no types here.
    for kind in (0..=0xFF_u64).filter(|kind| *kind != 5) {
        let wire = [0x40 | (kind >> 8) as u8, kind as u8, 1, 2, 3, 4];
        let known = u8::try_from(kind).ok().and_then(theirs::SubgroupStreamType::from_u8);
        let ours = read(D, GroupOrder::Ascending, &wire, usize::MAX);
        // What is known may still want more bytes.
        let unknown = matches!(&ours, Err(DataError::Session { reason, .. })
            if reason.contains("stream type"));
        assert_eq!(unknown, known.is_none(), "{kind:#x} {ours:?}");
    }
}

fn head() -> SubgroupHeader {
    SubgroupHeader {
        alias: 1,
        group: 1,
        subgroup: 0,
        priority: Some(7),
        properties: false,
        end_of_group: false,
        first_object: false,
    }
}

/// Status 1 says what later drafts say by a gap; other markers may have properties, which are dropped.
#[test]
fn objects_that_do_not_exist_are_gaps() {
    for (mode, subgroup) in [(0, 0), (1, 5)] {
        let header = SubgroupHeader { properties: true, subgroup, ..head() };
        let mut wire = Vec::new();
        let head = their_header(&header, mode);
        head.encode_checked(&mut wire).unwrap();
        let mut writer = theirs::SubgroupObjectReader::new(&head);
        let marker = |object, status, extension_headers: &[u8]| theirs::SubgroupObject {
            object_id: v(object),
            extension_headers: extension_headers.to_vec(),
            status: Some(status),
            payload: Vec::new(),
        };
        for object in [
            marker(5, ObjectStatus::ObjectDoesNotExist, &[]),
            marker(7, ObjectStatus::Normal, &[2, 5]),
            marker(8, ObjectStatus::ObjectDoesNotExist, &[]),
            marker(9, ObjectStatus::EndOfGroup, &[2, 5]),
        ] {
            writer.write_object(&object, &mut wire).unwrap();
        }
        let properties = Bytes::from_static(&[2, 5]);
        let normal = ObjectHeader { object: 7, properties, ..ObjectHeader::default() };
        let end = ObjectHeader { object: 9, status: Status::EndOfGroup, ..ObjectHeader::default() };
        let items = vec![Item::Subgroup(header), Item::Object(normal), Item::Object(end)];
        for step in [1, 2, usize::MAX] {
            assert_eq!(read(D, GroupOrder::Ascending, &wire, step), Ok(items.clone()), "{mode}");
        }
    }
    // Properties beside "does not exist", and a status nobody has.
    for wire in [[0x11, 1, 1, 7, 5, 2, 2, 5, 0, 1], [0x11, 1, 1, 7, 5, 2, 2, 5, 0, 2]] {
        assert!(read(D, GroupOrder::Ascending, &wire, usize::MAX).is_err(), "{wire:?}");
    }
}

fn their_fetch_object(object: &FetchObject) -> theirs::FetchObject {
    let payload = if object.payload_len > 0 { b"abc".to_vec() } else { vec![] };
    theirs::FetchObject {
        group_id: v(object.location.group),
        subgroup_id: v(object.subgroup.unwrap_or(object.location.object)),
        object_id: v(object.location.object),
        publisher_priority: object.priority,
        extension_headers: object.properties.to_vec(),
        status: payload.is_empty().then_some(ObjectStatus::Normal),
        payload,
    }
}

#[test]
fn fetch_streams_agree() {
    let object = |group, id, subgroup, payload_len, block: &'static [u8]| FetchObject {
        location: Location::new(group, id),
        subgroup: Some(subgroup),
        priority: group as u8,
        properties: Bytes::from_static(block),
        payload_len,
    };
    let objects = [
        object(70_000, 0, 0, 3, &[]),
        object(70_000, 1, 1, 0, &[2, 5]),
        object(70_000, 9, 300, 3, &[]),
        object(70_001, 4, 0, 3, &[2, 5]),
    ];
    let header = FetchHeader { request: RequestId(300) };
    let mut items = vec![Item::Fetch(header)];
    let mut wire = Vec::new();
    theirs::FetchHeader { request_id: v(300) }.encode(&mut wire);
    let mut ours = BytesMut::new();
    let mut encoder = FetchEncoder::new(D, &header, GroupOrder::Ascending, &mut ours).unwrap();
    for object in &objects {
        their_fetch_object(object).encode_checked(&mut wire).unwrap();
        encoder.object(object, &mut ours).unwrap();
        items.push(Item::FetchObject(object.clone()));
        if object.payload_len > 0 {
            ours.put_slice(b"abc");
            items.push(Item::Payload { data: Bytes::from_static(b"abc"), last: true });
        }
    }
    assert_eq!(ours[..], wire[..], "the same bytes");
    for step in [1, 3, usize::MAX] {
        assert_eq!(read(D, GroupOrder::Ascending, &wire, step), Ok(items.clone()));
    }
}

#[test]
fn what_a_fetch_leaves_out_does_not_exist_and_what_is_not_known_cannot_be_said() {
    let mut wire = Vec::new();
    theirs::FetchHeader { request_id: v(3) }.encode(&mut wire);
    for (object, status) in [
        (4, ObjectStatus::ObjectDoesNotExist),
        (5, ObjectStatus::EndOfGroup),
        (6, ObjectStatus::EndOfTrack),
    ] {
        let marker = FetchObject { location: Location::new(2, object), ..FetchObject::default() };
        theirs::FetchObject { status: Some(status), ..their_fetch_object(&marker) }
            .encode_checked(&mut wire)
            .unwrap();
    }
    let gap = |end| Item::FetchGap { end, gap: Gap::NonExistent };
    let (header, whole) = (FetchHeader { request: RequestId(3) }, Location::whole_group(2));
    let items = [Item::Fetch(header), gap(Location::new(2, 4)), gap(whole), gap(whole)];
    assert_eq!(read_whole(D, &wire), items);

    let mut out = BytesMut::new();
    let mut encoder = FetchEncoder::new(D, &header, GroupOrder::Ascending, &mut out).unwrap();
    let before = out.len();
    encoder.gap(Location::new(2, 4), Gap::NonExistent, &mut out).unwrap();
    assert!(encoder.gap(whole, Gap::Unknown, &mut out).is_err());
    assert!(encoder.gap(whole, Gap::TimedOut, &mut out).is_err());
    assert_eq!(out.len(), before);
    // A datagram has its object id for a subgroup.
    let datagram = FetchObject {
        location: Location::new(2, 9),
        subgroup: None,
        payload_len: 3,
        ..FetchObject::default()
    };
    encoder.object(&datagram, &mut out).unwrap();
    assert_eq!(out[before..], [2, 9, 9, 0, 0, 3]);
}

#[test]
fn datagrams_agree() {
    for bits in 0..8u8 {
        let block: &'static [u8] = if bits & 1 != 0 { &[2, 5] } else { &[] };
        let ours = Datagram {
            alias: 300,
            location: Location::new(70_000, u64::from(bits & 4)),
            priority: Some(9),
            properties: Bytes::from_static(block),
            end_of_group: bits & 2 != 0,
            status: Status::Normal,
            payload: Bytes::from_static(b"abc"),
        };
        let present = ours.location.object != 0;
        let their = theirs::DatagramObject {
            datagram_type: theirs::DatagramType::payload(present, bits & 1 != 0, bits & 2 != 0),
            track_alias: v(300),
            group_id: v(70_000),
            object_id: v(ours.location.object),
            publisher_priority: 9,
            extension_headers: block.to_vec(),
            status: None,
            payload: b"abc".to_vec(),
        };
        agree(&ours, &their);
    }
    for object in [0, 5] {
        let ours = Datagram {
            alias: 300,
            location: Location::new(7, object),
            priority: Some(9),
            status: Status::EndOfGroup,
            ..Datagram::default()
        };
        let their = theirs::DatagramObject {
            datagram_type: theirs::DatagramType::status(false),
            track_alias: v(300),
            group_id: v(7),
            object_id: v(object),
            publisher_priority: 9,
            extension_headers: Vec::new(),
            status: Some(ObjectStatus::EndOfGroup),
            payload: Vec::new(),
        };
        agree(&ours, &their);
        // An object that does not exist is no object; markers lose their properties.
        let missing = theirs::DatagramObject {
            status: Some(ObjectStatus::ObjectDoesNotExist),
            ..their.clone()
        };
        assert_eq!(decode(&missing), Ok(None));
        let decorated = theirs::DatagramObject {
            datagram_type: theirs::DatagramType::status(true),
            extension_headers: vec![2, 5],
            ..their
        };
        assert_eq!(decode(&decorated), Ok(Some(ours)));
    }
    for kind in 0..0x40u8 {
        let known = theirs::DatagramType::from_u8(kind).is_some();
        let wire = Bytes::copy_from_slice(&[kind, 1, 2, 3, 4, 0]);
        let unknown = matches!(Datagram::decode(D, wire), Err(DataError::Session { reason, .. })
            if reason.contains("type"));
        assert_eq!(unknown, !known, "{kind:#x}");
    }
}

fn decode(their: &theirs::DatagramObject) -> Result<Option<Datagram>, DataError> {
    let mut wire = Vec::new();
    their.encode_checked(&mut wire).unwrap();
    Datagram::decode(D, wire.into())
}

fn agree(ours: &Datagram, their: &theirs::DatagramObject) {
    assert_eq!(decode(their), Ok(Some(ours.clone())), "theirs to ours");
    let mut wire = BytesMut::new();
    ours.encode(D, &mut wire).unwrap();
    let read = theirs::DatagramObject::decode(&mut &wire[..]);
    assert_eq!(read.as_ref(), Ok(their), "ours to theirs");
}
