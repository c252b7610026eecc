//! Real headers of x264 and x265 (160x120, made by Debian's ffmpeg 5.1.9), with slices cut short, since
//! nobody here reads into a slice.

use bytes::Bytes;
use weir_packager::{Codec, Nals};

use super::{Assembler, Format, Units, is_first_slice};

const SPS: &[u8] = &[
    0x67, 0xf4, 0x00, 0x0b, 0x91, 0x96, 0x82, 0x84, 0x7e, 0x27, 0x01, 0x10, 0x00, 0x00, 0x03, 0x00,
    0x10, 0x00, 0x00, 0x03, 0x03, 0x20, 0xf1, 0x42, 0xaa,
];
const PPS: &[u8] = &[0x68, 0xce, 0x0f, 0x19, 0x20];
const IDR: &[u8] = &[0x65, 0x88, 0x84, 0x3a, 0x26];
const DEPENDENT: &[u8] = &[0x41, 0x9a, 0x21, 0x10];

const HEVC_VPS: &[u8] = &[
    0x40, 0x01, 0x0c, 0x01, 0xff, 0xff, 0x04, 0x08, 0x00, 0x00, 0x03, 0x00, 0x9e, 0x08, 0x00, 0x00,
    0x03, 0x00, 0x00, 0x1e, 0x95, 0x94, 0x09,
];
const HEVC_SPS: &[u8] = &[
    0x42, 0x01, 0x01, 0x04, 0x08, 0x00, 0x00, 0x03, 0x00, 0x9e, 0x08, 0x00, 0x00, 0x03, 0x00, 0x00,
    0x1e, 0x90, 0x02, 0x84, 0x04, 0x0f, 0x89, 0xcb, 0x2b, 0x2a, 0x52, 0x61, 0x78, 0x0b, 0x70, 0x20,
    0x20, 0x00, 0x40, 0x00, 0x00, 0x03, 0x00, 0x40, 0x00, 0x00, 0x06, 0x42,
];
const HEVC_PPS: &[u8] = &[0x44, 0x01, 0xc0, 0x73, 0x18, 0x30, 0x18, 0x90];
const HEVC_CRA: &[u8] = &[0x2a, 0x01, 0xaf, 0x08];
const HEVC_TRAIL: &[u8] = &[0x02, 0x01, 0xd0, 0x10];

fn stream(units: &[&[u8]]) -> Vec<u8> {
    units.iter().flat_map(|unit| [&[0, 0, 0, 1], *unit].concat()).collect()
}

fn units(data: &Bytes) -> Vec<Vec<u8>> {
    Nals::new(data, 4).map(|unit| unit.expect("whole units").to_vec()).collect()
}

#[test]
fn the_record_of_a_stream_is_the_one_its_encoder_would_write() {
    let mut assembler = Assembler::new(Format::H264);
    let aud: &[u8] = &[0x09, 0xf0];
    let (codec, picture) = assembler.handle_access_unit(&stream(&[aud, SPS, PPS, IDR]));
    let Some(Codec::H264 { record }) = codec else { panic!("no record: {codec:?}") };
    let expected = [
        &[1, 0xf4, 0x00, 0x0b, 0xff, 0xe1, 0, 25],
        SPS,
        &[1, 0, 5],
        PPS,
        &[0xff, 0xf8, 0xf8, 0x00],
    ];
    assert_eq!(record, expected.concat());
    let (data, keyframe) = picture.expect("a picture");
    assert!(keyframe);
    assert_eq!(units(&data), [SPS, PPS, IDR], "delimiters go, parameter sets stay");

    let mut assembler = Assembler::new(Format::Hevc);
    let (codec, picture) =
        assembler.handle_access_unit(&stream(&[HEVC_VPS, HEVC_SPS, HEVC_PPS, HEVC_CRA]));
    let Some(Codec::Hevc { record }) = codec else { panic!("no record: {codec:?}") };
    let expected = [
        &[1, 0x04, 0x08, 0, 0, 0, 0x9e, 0x08, 0, 0, 0, 0, 0x1e][..],
        &[0xf0, 0x00, 0xfc, 0xff, 0xf8, 0xf8, 0, 0, 0x0f, 3],
        &[0xa0, 0, 1, 0, 23],
        HEVC_VPS,
        &[0xa1, 0, 1, 0, 44],
        HEVC_SPS,
        &[0xa2, 0, 1, 0, 8],
        HEVC_PPS,
    ];
    assert_eq!(record, expected.concat());
    assert!(picture.expect("a picture").1, "a CRA picture is a random access point");
    let (codec, picture) = assembler.handle_access_unit(&stream(&[HEVC_TRAIL]));
    assert!(codec.is_none() && !picture.expect("a picture").1);
}

#[test]
fn repeated_parameter_sets_are_no_news_and_changed_ones_wait_for_their_keyframe() {
    let mut assembler = Assembler::new(Format::H264);
    let first = stream(&[SPS, PPS, IDR]);
    assert!(assembler.handle_access_unit(&first).0.is_some());
    assert!(assembler.handle_access_unit(&first).0.is_none());
    let mut larger = SPS.to_vec();
    larger[3] = 0x1f;
    let (codec, _) = assembler.handle_access_unit(&stream(&[&larger, PPS, DEPENDENT]));
    assert!(codec.is_none(), "told in the middle of a group");
    let (codec, picture) = assembler.handle_access_unit(&stream(&[IDR]));
    let Some(Codec::H264 { record }) = codec else { panic!("no new record") };
    assert_eq!(record[3], 0x1f);
    assert_eq!(units(&picture.expect("a picture").0), [IDR]);
}

#[test]
fn a_new_sequence_drops_the_sets_of_the_old_one() {
    let mut assembler = Assembler::new(Format::H264);
    let second_pps: &[u8] = &[0x68, 0x5e, 0x0f, 0x19, 0x20];
    let (codec, _) = assembler.handle_access_unit(&stream(&[SPS, PPS, second_pps, IDR]));
    let Some(Codec::H264 { record }) = codec else { panic!("no record") };
    assert_eq!(record[33], 2, "both picture parameter sets");
    let mut other = SPS.to_vec();
    other[3] = 0x1e;
    let (codec, _) = assembler.handle_access_unit(&stream(&[&other, PPS, IDR]));
    let Some(Codec::H264 { record }) = codec else { panic!("no record") };
    assert_eq!(record[33], 1, "only the one that came with it");
}

#[test]
fn pictures_before_their_parameter_sets_are_counted_and_dropped() {
    let mut assembler = Assembler::new(Format::H264);
    assert!(assembler.handle_access_unit(&stream(&[IDR])).1.is_none());
    assert!(assembler.handle_access_unit(&stream(&[SPS, PPS])).0.is_some());
    assert!(assembler.handle_access_unit(&stream(&[DEPENDENT])).1.is_some());
    let counters = assembler.counters();
    assert_eq!((counters.without_configuration, counters.without_picture), (1, 1));
}

#[test]
fn start_codes_of_both_lengths_and_padding_delimit_units() {
    let bytes = [&[9, 9, 0, 0, 1][..], IDR, &[0, 0, 0, 0, 1, 0, 0, 1], DEPENDENT, &[0, 0, 0]];
    let bytes = bytes.concat();
    assert_eq!(Units::new(&bytes).collect::<Vec<_>>(), [IDR, DEPENDENT]);
    for none in [&[][..], &[0, 0], &[0, 0, 1], &[1, 1, 1], &[0, 0, 0, 0]] {
        assert_eq!(Units::new(none).count(), 0, "{none:?}");
    }
}

#[test]
fn the_first_slice_of_a_picture_is_told_from_the_next_ones() {
    assert!(is_first_slice(Format::H264, IDR));
    assert!(!is_first_slice(Format::H264, &[0x65, 0x48]));
    assert!(!is_first_slice(Format::H264, SPS));
    assert!(is_first_slice(Format::Hevc, HEVC_CRA));
    assert!(!is_first_slice(Format::Hevc, &[0x2a, 0x01, 0x2f]));
    assert!(!is_first_slice(Format::Hevc, &[0x2a]));
}

#[test]
fn absurd_parameter_sets_are_refused_and_held_sets_are_bounded() {
    let mut assembler = Assembler::new(Format::H264);
    let long = [SPS, &[1; 5000]].concat();
    let short: &[u8] = &[0x67, 0x64];
    let many: Vec<Vec<u8>> = (0..100_u8).map(|n| vec![0x68, 0x00, n | 0x80, 1]).collect();
    let mut all: Vec<&[u8]> = vec![&long, short];
    all.extend(many.iter().map(|unit| &unit[..]));
    assert!(assembler.handle_access_unit(&stream(&all)).0.is_none());
    assert!(assembler.counters().bad_parameter_sets >= 2);
}
