use super::*;

fn record(hex: &str) -> Bytes {
    (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[i * 2..i * 2 + 2], 16).unwrap()).collect()
}

// Written by x264 for pictures of ours.
const BASELINE_360P: &str =
    "0142c01effe100196742c01ed900a02ff970110000030001000003003c0f162e4801000568cb83cb20";
const HIGH_1080P: &str = "01640028ffe1001b67640028acd940780227e5c044000003000400000300f03c60c65801000668ebe3cb22c0fdf8f800";
const MAIN_638X358: &str =
    "014d401effe10019674d401eeca05017f5360220000003002000000781e2c5b2c001000568ebe3cb20";
const INTERLACED_576I: &str = "0164001effe100236764001eacd940b424d808800000030080000019301000f420003d09c98601f142996001000568fbacb22cfdf8f800";

fn check(hex: &str, codec: &str, size: (u32, u32), rate: (u32, u32), reorder: u32) {
    let config = AvcConfig::parse(&record(hex)).unwrap();
    assert_eq!(config.codec_string(), codec);
    assert_eq!((config.sps.width, config.sps.height), size);
    let (numerator, denominator) = config.sps.frame_rate.unwrap();
    assert_eq!(numerator * rate.1, denominator * rate.0, "{codec}");
    assert_eq!(config.sps.reorder_depth, Some(reorder), "{codec}");
    assert_eq!(config.length_size, 4);
}

#[test]
fn records_of_a_real_encoder() {
    check(BASELINE_360P, "avc1.42c01e", (640, 360), (30, 1), 0);
    check(HIGH_1080P, "avc1.640028", (1920, 1080), (30, 1), 2);
    check(MAIN_638X358, "avc1.4d401e", (638, 358), (30, 1), 2);
    check(INTERLACED_576I, "avc1.64001e", (720, 576), (25, 1), 2);
}

#[test]
fn a_record_cut_anywhere_is_refused_or_whole() {
    let whole = record(HIGH_1080P);
    for length in 0..whole.len() {
        let cut = AvcConfig::parse(&whole.slice(..length));
        // Only the optional tail of the high profiles may be missing.
        assert_eq!(cut.is_ok(), length >= whole.len() - 4, "{length} bytes");
    }
}

#[test]
fn absurd_sizes_and_counts_are_refused() {
    for (what, bits) in [
        // Profile 66, level 30, id 0, frame num 0, order type 2, refs 1, no gaps, then the sides.
        (
            "2^31 macroblocks wide",
            "1 1 011 010 0 0000000000000000000000000000000100000000000000000000000000000001 1 1 1 0 0 1",
        ),
        (
            "2000 by 2000 macroblocks",
            "1 1 011 010 0 000000000011111010000 000000000011111010000 1 1 0 0 1",
        ),
        ("crop wider than the picture", "1 1 011 010 0 011 011 1 1 1 00001100101 1 1 1 0 1"),
    ] {
        let bits: Vec<_> = bits.chars().filter(|c| *c != ' ').collect();
        let mut unit = vec![0x67, 66, 0, 30];
        for byte in bits.chunks(8) {
            unit.push(
                byte.iter().enumerate().map(|(i, bit)| u8::from(*bit == '1') << (7 - i)).sum(),
            );
        }
        assert!(Sps::parse(&unit).is_err(), "{what}");
    }
    assert!(Sps::parse(&[0x67; 4000]).is_err());
    assert!(Sps::parse(&[]).is_err());
    assert!(AvcConfig::parse(&Bytes::from(vec![1; RECORD_BYTES_MAX + 1])).is_err());
}

#[test]
fn access_units_are_told_apart() {
    let unit = |nals: &[&[u8]]| -> Vec<u8> {
        nals.iter().flat_map(|nal| [&(nal.len() as u32).to_be_bytes()[..], nal].concat()).collect()
    };
    let classify = |nals: &[&[u8]]| AccessUnit::classify(&unit(nals), 4);
    assert_eq!(classify(&[&[9, 0x10], &[0x67, 1], &[0x65, 0x88]]), Ok(AccessUnit::Idr));
    assert_eq!(classify(&[&[0x41, 0x9a]]), Ok(AccessUnit::Dependent));
    assert_eq!(classify(&[&[6, 6, 1, 0xc4, 0x80], &[0x41, 0x9a]]), Ok(AccessUnit::RecoveryPoint));
    assert_eq!(
        classify(&[&[6, 5, 2, 1, 2, 6, 1, 0xc4, 0x80], &[0x41]]),
        Ok(AccessUnit::RecoveryPoint)
    );
    assert_eq!(classify(&[&[6, 5, 0xff, 0xff], &[0x41]]), Ok(AccessUnit::Dependent));
    assert!(classify(&[&[9, 0x10]]).is_err());
    assert!(AccessUnit::classify(&[0, 0, 0, 9, 0x65], 4).is_err());
    assert!(AccessUnit::classify(&[0, 0, 0], 4).is_err());
    assert!(AccessUnit::classify(&[], 4).is_err());
}
