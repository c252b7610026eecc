//! Data streams and datagrams: every form against `moqtap-codec`, round trips of random streams, cuts
//! at every place, and random bytes.

use bytes::{BufMut, Bytes, BytesMut};
use moqtap_codec::varint::VarInt;
use moqtap_codec::{draft16::data_stream as t16, draft18::data_stream as t18};
use proptest::prelude::*;

use super::*;
use crate::draft::Draft;
use crate::model::GroupOrder;

mod d14;

fn v(value: u64) -> VarInt {
    VarInt::from_u64(value).unwrap()
}

/// All items of a stream that arrives in pieces of `step` bytes, payload pieces joined.
fn read(draft: Draft, order: GroupOrder, wire: &[u8], step: usize) -> Result<Vec<Item>, DataError> {
    let mut decoder = Decoder::new(draft, 4096, 1 << 20);
    decoder.set_group_order(order);
    let mut items: Vec<Item> = Vec::new();
    for piece in wire.chunks(step) {
        decoder.push(Bytes::copy_from_slice(piece));
        while let Some(item) = decoder.next()? {
            match (items.last_mut(), item) {
                (
                    Some(Item::Payload { data: before, last: last @ false }),
                    Item::Payload { data, last: now },
                ) => {
                    *before = [&before[..], &data[..]].concat().into();
                    *last = now;
                }
                (_, item) => items.push(item),
            }
        }
        assert!(decoder.buffered() <= 4096 + 128);
    }
    decoder.finish()?;
    Ok(items)
}

fn read_whole(draft: Draft, wire: &[u8]) -> Vec<Item> {
    read(draft, GroupOrder::Ascending, wire, usize::MAX).unwrap()
}

fn their_kind(header: &SubgroupHeader, mode: u8, draft: Draft) -> u8 {
    0x10 | u8::from(header.properties)
        | mode << 1
        | u8::from(header.end_of_group) << 3
        | u8::from(header.priority.is_none()) << 5
        | u8::from(header.first_object && draft != Draft::D16) << 6
}

/// Every subgroup header there is, with the mode that names its subgroup.
fn subgroup_headers() -> Vec<(SubgroupHeader, u8)> {
    let mut headers = Vec::new();
    for bits in 0..16u8 {
        for (mode, subgroup) in [(0, 0), (1, 5), (2, 300)] {
            headers.push((
                SubgroupHeader {
                    alias: 70_000,
                    group: 1 << 40,
                    subgroup,
                    priority: (bits & 1 == 0).then_some(7),
                    properties: bits & 2 != 0,
                    end_of_group: bits & 4 != 0,
                    first_object: bits & 8 != 0,
                },
                mode,
            ));
        }
    }
    headers
}

fn objects(properties: bool) -> [ObjectHeader; 4] {
    let block = if properties { Bytes::from_static(&[2, 5]) } else { Bytes::new() };
    let object = |object, payload_len, status| ObjectHeader {
        object,
        properties: if status == Status::Normal { block.clone() } else { Bytes::new() },
        payload_len,
        status,
    };
    [
        object(5, 3, Status::Normal),
        object(6, 0, Status::Normal),
        object(900, 3, Status::Normal),
        object(901, 0, Status::EndOfGroup),
    ]
}

fn expected(header: SubgroupHeader) -> Vec<Item> {
    let mut items = vec![Item::Subgroup(header)];
    for object in objects(header.properties) {
        let payload = object.payload_len > 0;
        items.push(Item::Object(object));
        if payload {
            items.push(Item::Payload { data: Bytes::from_static(b"abc"), last: true });
        }
    }
    items
}

/// One module per draft of theirs: the types differ in name only.
macro_rules! subgroups_agree {
    ($name:ident, $draft:expr, $theirs:ident, $status:path) => {
        #[test]
        fn $name() {
            for (header, mode) in subgroup_headers() {
                let first_object = header.first_object && $draft != Draft::D16;
                let header = SubgroupHeader { first_object, ..header };
                let their_header = $theirs::SubgroupHeader {
                    header_type: their_kind(&header, mode, $draft),
                    track_alias: v(header.alias),
                    group_id: v(header.group),
                    subgroup_id: v(header.subgroup),
                    publisher_priority: header.priority,
                };
                let mut wire = Vec::new();
                their_header.encode_checked(&mut wire).unwrap();
                let mut writer = $theirs::SubgroupObjectReader::new(&their_header);
                for object in objects(header.properties) {
                    let payload = if object.payload_len > 0 { b"abc".to_vec() } else { vec![] };
                    let status = <$status>::from_u64(object.status.wire());
                    let their_object = $theirs::SubgroupObject {
                        object_id: v(object.object),
                        extension_headers: object.properties.to_vec(),
                        payload_length: v(object.payload_len),
                        object_status: status.filter(|_| payload.is_empty()),
                        payload,
                    };
                    writer.write_object(&their_object, &mut wire).unwrap();
                }
                assert_eq!(read_whole($draft, &wire), expected(header), "theirs to ours");

                let mut wire = BytesMut::new();
                let mut encoder = SubgroupEncoder::new($draft, &header, &mut wire).unwrap();
                for object in objects(header.properties) {
                    encoder.object(&object, &mut wire).unwrap();
                    wire.put_slice(if object.payload_len > 0 { b"abc" } else { b"" });
                }
                assert_eq!(read_whole($draft, &wire), expected(header), "ours to ours");
                let mut wire = &wire[..];
                let read = $theirs::SubgroupHeader::decode(&mut wire).unwrap();
                let our_mode = if header.subgroup == 0 { 0 } else { 2 };
                assert_eq!(read.header_type, their_kind(&header, our_mode, $draft));
                assert_eq!(read.track_alias, v(header.alias));
                assert_eq!(read.group_id, v(header.group));
                assert_eq!(read.subgroup_id, v(header.subgroup));
                assert_eq!(read.publisher_priority, header.priority);
                let mut reader = $theirs::SubgroupObjectReader::new(&read);
                for object in objects(header.properties) {
                    let read = reader.read_object(&mut wire).unwrap();
                    assert_eq!(read.object_id, v(object.object));
                    assert_eq!(read.extension_headers, object.properties.to_vec());
                    assert_eq!(read.payload.len() as u64, object.payload_len);
                    assert_eq!(read.status().as_u64(), object.status.wire());
                }
                assert!(wire.is_empty());
            }
        }
    };
}

mod later;

subgroups_agree!(
    subgroup_streams_of_draft_16_agree,
    Draft::D16,
    t16,
    moqtap_codec::draft16::types::ObjectStatus
);
subgroups_agree!(
    subgroup_streams_of_draft_18_agree,
    Draft::D18,
    t18,
    moqtap_codec::draft18::types::ObjectStatus
);

fn datagrams() -> Vec<Datagram> {
    let mut datagrams = Vec::new();
    for bits in 0..16u8 {
        for status in [Status::Normal, Status::EndOfGroup, Status::EndOfTrack] {
            let normal = status == Status::Normal;
            datagrams.push(Datagram {
                alias: 300,
                location: Location::new(70_000, if bits & 1 == 0 { 0 } else { 9 }),
                priority: (bits & 2 == 0).then_some(3),
                properties: Bytes::from_static(if bits & 4 != 0 && normal { &[2, 5] } else { &[] }),
                end_of_group: bits & 8 != 0 && normal,
                status,
                payload: Bytes::from_static(if normal { b"beat" } else { b"" }),
            });
        }
    }
    datagrams
}

#[test]
fn datagrams_agree() {
    for ours in datagrams() {
        let mut wire = BytesMut::new();
        ours.encode(Draft::D18, &mut wire).unwrap();
        let wire = wire.freeze();
        let (header, payload) = t18::DatagramHeader::decode_object(&mut &wire[..]).unwrap();
        assert_eq!(header.track_alias, v(ours.alias));
        assert_eq!((header.group_id, header.object_id), (v(70_000), v(ours.location.object)));
        assert_eq!(header.publisher_priority, ours.priority);
        assert_eq!(header.properties, ours.properties.to_vec());
        assert_eq!(header.is_end_of_group(), ours.end_of_group);
        assert_eq!(header.status().as_u64(), ours.status.wire());
        assert_eq!(payload, ours.payload.to_vec());
        let mut theirs = Vec::new();
        header.encode_checked(&mut theirs).unwrap();
        theirs.extend(payload);
        assert_eq!(Datagram::decode(Draft::D18, theirs.into()), Ok(Some(ours.clone())));

        let mut wire = BytesMut::new();
        ours.encode(Draft::D16, &mut wire).unwrap();
        let mut rest = &wire[..];
        let header = t16::DatagramHeader::decode(&mut rest).unwrap();
        assert_eq!(header.track_alias, v(ours.alias));
        assert_eq!((header.group_id, header.object_id), (v(70_000), v(ours.location.object)));
        assert_eq!(header.publisher_priority, ours.priority);
        assert_eq!(header.extension_headers, ours.properties.to_vec());
        assert_eq!(header.is_end_of_group(), ours.end_of_group);
        assert_eq!(
            header.object_status.map_or(0, moqtap_codec::draft16::types::ObjectStatus::as_u64),
            ours.status.wire()
        );
        assert_eq!(rest, &ours.payload[..]);
        let mut theirs = Vec::new();
        header.encode_checked(&mut theirs).unwrap();
        theirs.extend(rest);
        assert_eq!(Datagram::decode(Draft::D16, theirs.into()), Ok(Some(ours)));
    }
    // 0x132B3E29 is padding in draft 18 and unknown in draft 16.
    let mut padding = BytesMut::new();
    crate::varint::Ints::Moq.encode(0x132B_3E29, &mut padding);
    assert_eq!(Datagram::decode(Draft::D18, padding.freeze()), Ok(None));
    let mut padding = BytesMut::new();
    crate::varint::Ints::Quic.encode(0x132B_3E29, &mut padding);
    assert!(Datagram::decode(Draft::D16, padding.freeze()).is_err());
}

/// A fetch in ascending or descending groups: new groups, skipped ids, all subgroup forms, gaps.
fn fetch_items(order: GroupOrder) -> Vec<Item> {
    let mut items = vec![Item::Fetch(FetchHeader { request: RequestId(9) })];
    let groups = match order {
        GroupOrder::Ascending => [4, 5, 70],
        GroupOrder::Descending => [70, 5, 4],
    };
    for group in groups {
        for (object, subgroup, priority) in [
            (1, Some(0), 1),
            (2, Some(0), 1),
            (5, Some(7), 1),
            (6, Some(7), 2),
            (7, Some(8), 2),
            (90, None, 2),
            (91, Some(3), 2),
        ] {
            let location = Location::new(group, object);
            let block: &[u8] = if object == 6 { &[2, 5] } else { &[] };
            let properties = Bytes::from_static(block);
            let payload_len = if object == 5 { 0 } else { 3 };
            let head = FetchObject { location, subgroup, priority, properties, payload_len };
            items.push(Item::FetchObject(head));
            if payload_len > 0 {
                items.push(Item::Payload { data: Bytes::from_static(b"abc"), last: true });
            }
            if object == 7 {
                let end = Location::new(group, 80);
                items.push(Item::FetchGap { end, gap: Gap::NonExistent });
                let end = Location::new(group, 85);
                items.push(Item::FetchGap { end, gap: Gap::Unknown });
            }
        }
    }
    items
}

fn write_fetch(draft: Draft, order: GroupOrder, items: &[Item]) -> BytesMut {
    let mut out = BytesMut::new();
    let mut encoder = None;
    for item in items {
        match (item, &mut encoder) {
            (Item::Fetch(header), _) => {
                encoder = Some(FetchEncoder::new(draft, header, order, &mut out).unwrap());
            }
            (Item::FetchObject(head), Some(encoder)) => encoder.object(head, &mut out).unwrap(),
            (Item::FetchGap { end, gap }, Some(encoder)) => {
                encoder.gap(*end, *gap, &mut out).unwrap();
            }
            (Item::Payload { data, .. }, _) => out.put_slice(data),
            other => panic!("{other:?}"),
        }
    }
    out
}

#[test]
fn fetch_streams_agree() {
    for order in [GroupOrder::Ascending, GroupOrder::Descending] {
        let items = fetch_items(order);
        let heads: Vec<&Item> =
            items.iter().filter(|i| !matches!(i, Item::Payload { .. } | Item::Fetch(_))).collect();

        let wire = write_fetch(Draft::D18, order, &items);
        assert_eq!(read(Draft::D18, order, &wire, 1).unwrap(), items);
        let mut rest = &wire[..];
        assert_eq!(t18::FetchHeader::decode(&mut rest).unwrap().request_id, v(9));
        let mut reader = t18::FetchObjectReader::new(match order {
            GroupOrder::Ascending => t18::GroupOrder::Ascending,
            GroupOrder::Descending => t18::GroupOrder::Descending,
        });
        for head in &heads {
            let read = reader.read_object_header(&mut rest).unwrap();
            let location = Location::new(read.group_id, read.object_id);
            let gap = read.header.end_of_range().map(|range| match range {
                t18::EndOfRange::NonExistent => Gap::NonExistent,
                t18::EndOfRange::Unknown => Gap::Unknown,
            });
            check_head(head, location, read.subgroup_id, read.publisher_priority, gap);
            rest = &rest[read.header.payload_length.into_inner() as usize..];
        }
        assert!(rest.is_empty());

        let wire = write_fetch(Draft::D16, order, &items);
        assert_eq!(read(Draft::D16, order, &wire, 1).unwrap(), items);
        let mut rest = &wire[..];
        assert_eq!(t16::FetchHeader::decode(&mut rest).unwrap().request_id, v(9));
        let mut reader = t16::FetchObjectReader::new();
        for head in &heads {
            let header = t16::FetchObjectHeader::decode(&mut rest).unwrap();
            let read = reader.resolve(&header).unwrap();
            let location = Location::new(read.group_id, read.object_id);
            let gap = read.end_of_range.map(|range| match range {
                t16::FetchEndOfRange::NonExistent => Gap::NonExistent,
                t16::FetchEndOfRange::Unknown => Gap::Unknown,
            });
            check_head(head, location, read.subgroup_id, read.publisher_priority, gap);
            rest = &rest[header.payload_length.into_inner() as usize..];
        }
        assert!(rest.is_empty());
    }
}

fn check_head(
    ours: &Item,
    location: Location,
    subgroup: Option<u64>,
    priority: Option<u8>,
    gap: Option<Gap>,
) {
    match ours {
        Item::FetchObject(head) => {
            assert_eq!(
                (head.location, head.subgroup, Some(head.priority), None),
                (location, subgroup, priority, gap)
            );
        }
        Item::FetchGap { end, gap: kind } => assert_eq!((*end, Some(*kind)), (location, gap)),
        other => panic!("{other:?}"),
    }
}

/// Fields present although they could be left out, as other senders write them.
#[test]
fn fetch_objects_with_every_flag_are_read() {
    for flags in 0..0x80u64 {
        let explicit = flags & 3 == 3 && flags & 0x40 == 0;
        let head = t18::FetchObjectHeader {
            serialization_flags: flags,
            group_id_delta: (flags & 8 != 0).then(|| v(2)),
            subgroup_id: explicit.then(|| v(40)),
            object_id_delta: (flags & 4 != 0).then(|| v(3)),
            publisher_priority: (flags & 0x10 != 0).then_some(9),
            properties: if flags & 0x20 != 0 { vec![2, 5] } else { Vec::new() },
            payload_length: v(0),
        };
        let first = t18::FetchObjectHeader {
            serialization_flags: 0x1F,
            group_id_delta: Some(v(10)),
            subgroup_id: Some(v(6)),
            object_id_delta: Some(v(20)),
            publisher_priority: Some(1),
            properties: Vec::new(),
            payload_length: v(0),
        };
        let mut wire = vec![5, 9];
        first.encode(&mut wire).unwrap();
        head.encode(&mut wire).unwrap();
        let mut theirs = t18::FetchObjectReader::new(t18::GroupOrder::Ascending);
        let mut rest = &wire[2..];
        theirs.read_object_header(&mut rest).unwrap();
        let read = theirs.read_object_header(&mut rest).unwrap();
        let ours = read_whole(Draft::D18, &wire);
        let location = Location::new(read.group_id, read.object_id);
        check_head(&ours[2], location, read.subgroup_id, read.publisher_priority, None);
    }
}

#[test]
fn a_fetch_object_that_refers_to_nothing_is_refused() {
    for draft in Draft::ALL {
        for flags in [0x00, 0x0C, 0x1D, 0x1E, 0x14, 0x18] {
            let wire = [5, 9, flags, 1, 1, 1, 1, 1];
            let result = read(draft, GroupOrder::Ascending, &wire, 1);
            assert!(result.is_err(), "{draft:?} {flags:#x}");
        }
        let overflow = [5, 9, 0x80];
        assert!(read(draft, GroupOrder::Ascending, &overflow, 1).is_err());
    }
    let below_zero = [5, 9, 0x1C, 1, 1, 1, 0, 0x08, 5, 0];
    assert!(read(Draft::D18, GroupOrder::Descending, &below_zero, 1).is_err());
    assert!(read(Draft::D18, GroupOrder::Ascending, &below_zero, 1).is_ok());
}

#[test]
fn an_encoder_refuses_what_no_reader_could_place() {
    let mut out = BytesMut::new();
    for draft in Draft::ALL {
        let header = FetchHeader { request: RequestId(0) };
        let order = GroupOrder::Ascending;
        let mut encoder = FetchEncoder::new(draft, &header, order, &mut out).unwrap();
        let at = |group, object| FetchObject {
            location: Location::new(group, object),
            subgroup: Some(0),
            ..FetchObject::default()
        };
        encoder.object(&at(5, 5), &mut out).unwrap();
        let before = out.len();
        for (group, object) in [(5, 5), (5, 4), (4, 9)] {
            assert!(encoder.object(&at(group, object), &mut out).is_err(), "{draft:?} {object}");
        }
        let mut encoder = SubgroupEncoder::resume(draft, false, Some(5));
        let object = |object| ObjectHeader { object, payload_len: 1, ..ObjectHeader::default() };
        assert!(encoder.object(&object(5), &mut out).is_err());
        let properties = Bytes::from_static(&[2, 1]);
        assert!(encoder.object(&ObjectHeader { properties, ..object(6) }, &mut out).is_err());
        let status = Status::EndOfGroup;
        assert!(encoder.object(&ObjectHeader { status, ..object(6) }, &mut out).is_err());
        assert_eq!(out.len(), before, "a refusal writes nothing");
        encoder.object(&object(6), &mut out).unwrap();
    }
}

#[test]
fn ids_of_a_wider_draft_are_not_cut_for_a_narrower_one() {
    let header = SubgroupHeader {
        alias: 1,
        group: 1 << 62,
        subgroup: 0,
        priority: None,
        properties: false,
        end_of_group: false,
        first_object: false,
    };
    let mut out = BytesMut::new();
    assert!(SubgroupEncoder::new(Draft::D18, &header, &mut out).is_ok());
    out.clear();
    assert!(SubgroupEncoder::new(Draft::D16, &header, &mut out).is_err());
    assert!(out.is_empty());
}

fn draft() -> impl Strategy<Value = Draft> {
    prop::sample::select(Draft::ALL.to_vec())
}

prop_compose! {
    fn stream()(
        alias in 0..1u64 << 62,
        group in 0..1u64 << 62,
        subgroup in 0..1u64 << 20,
        priority: Option<u8>,
        with_properties: bool,
        heads in prop::collection::vec((0..1u64 << 20, 0..200usize, 0..20usize), 0..8),
    ) -> (SubgroupHeader, Vec<(ObjectHeader, Bytes)>) {
        let header = SubgroupHeader {
            alias, group, subgroup, priority,
            properties: with_properties,
            end_of_group: false,
            first_object: false,
        };
        let mut next = 0;
        let objects = heads.into_iter().map(|(skip, payload, block)| {
            let object = next + skip;
            next = object + 1;
            let properties = Bytes::from(vec![1; if with_properties { block } else { 0 }]);
            let payload = Bytes::from(vec![object as u8; payload]);
            let payload_len = payload.len() as u64;
            let status = Status::Normal;
            (ObjectHeader { object, properties, payload_len, status }, payload)
        }).collect();
        (header, objects)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_stream_reads_the_same_however_it_is_cut(
        draft in draft(), (header, objects) in stream(), step in 1..300usize,
    ) {
        let mut wire = BytesMut::new();
        let mut encoder = SubgroupEncoder::new(draft, &header, &mut wire).unwrap();
        let default = draft.codec().rules().in_full.then_some(DEFAULT_PRIORITY);
        let header = SubgroupHeader { priority: header.priority.or(default), ..header };
        let mut items = vec![Item::Subgroup(header)];
        for (object, payload) in objects {
            encoder.object(&object, &mut wire).unwrap();
            wire.put_slice(&payload);
            items.push(Item::Object(object));
            if !payload.is_empty() {
                items.push(Item::Payload { data: payload, last: true });
            }
        }
        prop_assert_eq!(read(draft, GroupOrder::Ascending, &wire, step).unwrap(), items);
    }

    #[test]
    fn random_bytes_are_refused_alike_however_they_are_cut(
        draft in draft(), bytes in prop::collection::vec(any::<u8>(), 0..400), step in 1..60usize,
    ) {
        // A plausible first byte lets more of them come past the stream type.
        for first in [None, Some(0x05), Some(0x11), Some(0x15), Some(0x30)] {
            let wire: Vec<u8> = first.into_iter().chain(bytes.iter().copied()).collect();
            let whole = read(draft, GroupOrder::Descending, &wire, usize::MAX);
            let cut = read(draft, GroupOrder::Descending, &wire, step);
            prop_assert_eq!(whole.is_ok(), cut.is_ok());
            if let (Ok(whole), Ok(cut)) = (whole, cut) {
                prop_assert_eq!(whole, cut);
            }
        }
    }

    #[test]
    fn fuzz_entries_survive_random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        for draft in Draft::ALL {
            crate::fuzzing::fuzz_control(draft, &bytes);
            crate::fuzzing::fuzz_data(draft, &bytes);
        }
        crate::fuzzing::fuzz_session(&bytes);
    }

    #[test]
    fn control_bodies_survive_random_bytes(
        kind in 0..0x60u8, body in prop::collection::vec(0..40u8, 0..120),
    ) {
        // Small values make lengths that fit: most of these bodies get far.
        let mut wire = vec![kind, 0, 0];
        wire.extend(&body);
        let framed: Vec<u8> = std::iter::once(kind).chain(body).collect();
        for draft in Draft::ALL {
            crate::fuzzing::fuzz_control(draft, &wire);
            crate::fuzzing::fuzz_control(draft, &framed);
        }
    }
}
