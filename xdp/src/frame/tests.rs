//! Frames written and read again, frames that Linux and RFC 1071 have computed, and damage.

use proptest::prelude::*;

use super::*;

const STATION: Mac = Mac([2, 0, 0, 0, 0, 2]);
const PEER: Mac = Mac([2, 0, 0, 0, 0, 1]);
const MTU: usize = 1_500;

fn headers(from: &str, to: &str, vlan: Option<u16>, ecn: Option<Ecn>) -> Headers {
    let address = |text: &str| text.parse().expect("an address");
    let (from, to) = (address(from), address(to));
    Headers { source_mac: PEER, destination_mac: STATION, vlan, from, to, ecn }
}

fn v4(vlan: Option<u16>) -> Headers {
    headers("198.51.100.7:9999", "192.0.2.1:4433", vlan, Some(Ecn::Ect0))
}

fn v6(vlan: Option<u16>) -> Headers {
    headers("[2001:db8::7]:9999", "[2001:db8::1]:4433", vlan, Some(Ecn::Ce))
}

fn frame(headers: &Headers, datagram: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xaa; 2_048];
    let size = write(&mut frame, headers, datagram).expect("it fits");
    frame.truncate(size);
    frame
}

#[test]
fn datagrams_of_all_kinds_are_read_as_they_were_written() {
    for headers in [v4(None), v4(Some(7)), v6(None), v6(Some(4_094))] {
        for ecn in [None, Some(Ecn::Ect0), Some(Ecn::Ect1), Some(Ecn::Ce)] {
            let headers = Headers { ecn, ..headers };
            for size in [0, 1, 2, 3, 4, 5, 39, 1_199, 1_200, 1_452] {
                let datagram: Vec<u8> = (0..size).map(|at| (at * 7) as u8).collect();
                let frame = frame(&headers, &datagram);
                assert_eq!(frame.len(), header_bytes(headers.to.ip(), headers.vlan) + size);
                assert_eq!(read(&frame, STATION, MTU), Ok((headers, &datagram[..])), "{size}");
            }
        }
    }
}

/// Worked by hand after RFC 1071 section 3: words summed with end-around carry, complemented.
#[test]
fn checksums_are_those_of_the_standards() {
    let words = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(sum(&words, 0), 0xddf2);
    // The IPv4 header of a DNS query as a kernel sent it.
    let header = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00,
        0x01, 0xc0, 0xa8, 0x00, 0xc7,
    ];
    assert_eq!(sum(&header, 0), 0xffff);
    let written = ipv4_header([192, 168, 0, 1].into(), [192, 168, 0, 199].into(), 0, 0x73);
    assert_eq!(written, header);
}

#[test]
fn checksum_that_comes_out_as_zero_is_written_as_ones() {
    // The two bytes that make the sum complete.
    let headers = v4(None);
    let empty = frame(&headers, &[0, 0]);
    let checksum = [empty[40], empty[41]];
    let frame = frame(&headers, &checksum);
    assert_eq!(frame[40..42], [0xff, 0xff]);
    assert!(read(&frame, STATION, MTU).is_ok());
}

#[test]
fn every_reason_to_refuse_is_told() {
    let whole = frame(&v4(None), &[7; 100]);
    let tagged = frame(&v6(Some(7)), &[7; 100]);
    let ipv6 = frame(&v6(None), &[7; 100]);
    let with = |base: &[u8], at: usize, bytes: &[u8]| {
        let mut frame = base.to_vec();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    // The IPv4 header with its checksum put right after a change.
    let ipv4_with = |at: usize, bytes: &[u8]| {
        let mut frame = with(&whole, 14 + at, bytes);
        frame[24..26].fill(0);
        let checksum = !sum(&frame[14..34], 0);
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        frame
    };
    for (story, frame, refusal) in [
        ("nothing", vec![], Refusal::Runt),
        ("cut header", whole[..33].to_vec(), Refusal::Runt),
        ("cut datagram", whole[..whole.len() - 1].to_vec(), Refusal::Runt),
        ("cut IPv6 datagram", ipv6[..ipv6.len() - 1].to_vec(), Refusal::Runt),
        ("cut tag", tagged[..17].to_vec(), Refusal::Runt),
        ("larger than the interface", frame(&v4(None), &[0; 1_473]), Refusal::Oversized),
        ("for another station", with(&whole, 5, &[9]), Refusal::WrongMac),
        ("broadcast", with(&whole, 0, &[0xff; 6]), Refusal::WrongMac),
        ("two tags", with(&tagged, 16, &[0x81, 0]), Refusal::StackedVlan),
        ("provider tag", with(&tagged, 12, &[0x88, 0xa8]), Refusal::StackedVlan),
        ("ARP", with(&whole, 12, &[8, 6]), Refusal::NotUdp),
        ("TCP", ipv4_with(9, &[6]), Refusal::NotUdp),
        ("TCP over IPv6", with(&ipv6, 20, &[6]), Refusal::NotUdp),
        ("IPv4 called IPv6", with(&whole, 12, &[0x86, 0xdd]), Refusal::NotUdp),
        ("first fragment", ipv4_with(6, &[0x20, 0]), Refusal::Fragment),
        ("last fragment", ipv4_with(6, &[0, 0xb9]), Refusal::Fragment),
        ("IPv6 fragment", with(&ipv6, 20, &[44]), Refusal::Fragment),
        ("IPv4 options", ipv4_with(0, &[0x46]), Refusal::Options),
        ("IPv6 options", with(&ipv6, 20, &[60]), Refusal::Options),
        ("IPv4 shorter than its header", ipv4_with(2, &[0, 19]), Refusal::BadLength),
        ("UDP longer than its packet", with(&whole, 38, &[0, 200]), Refusal::BadLength),
        ("UDP shorter than its packet", with(&whole, 38, &[0, 50]), Refusal::BadLength),
        ("damaged IPv4 header", with(&whole, 22, &[63]), Refusal::BadChecksum),
        ("damaged datagram", with(&whole, 80, &[8]), Refusal::BadChecksum),
        ("no checksum over IPv6", with(&ipv6, 60, &[0, 0]), Refusal::BadChecksum),
    ] {
        assert_eq!(read(&frame, STATION, MTU).map(drop), Err(refusal), "{story}");
    }
}

#[test]
fn missing_and_half_made_checksums_pass_where_they_are_allowed() {
    let headers = v4(None);
    let mut frame = frame(&headers, b"datagram");
    frame[40..42].fill(0);
    assert_eq!(read(&frame, STATION, MTU), Ok((headers, &b"datagram"[..])));
    // What a local sender leaves to hardware that never sees the packet.
    let pseudo = folded(pseudo_header(headers.from.ip(), headers.to.ip(), 16));
    frame[40..42].copy_from_slice(&pseudo.to_be_bytes());
    assert_eq!(read(&frame, STATION, MTU), Ok((headers, &b"datagram"[..])));
}

#[test]
fn padding_behind_a_short_packet_is_not_part_of_the_datagram() {
    for headers in [v4(None), v6(None)] {
        let mut frame = frame(&headers, b"x");
        frame.resize(80, 0xee);
        assert_eq!(read(&frame, STATION, MTU), Ok((headers, &b"x"[..])));
    }
}

#[test]
fn what_does_not_fit_is_not_written() {
    let mut small = [0; 100];
    assert_eq!(write(&mut small, &v4(None), &[0; 58]), Some(100));
    assert_eq!(write(&mut small, &v4(None), &[0; 59]), None);
    assert_eq!(write(&mut small, &v6(Some(1)), &[0; 35]), None);
    let mut large = vec![0; 70_000];
    assert_eq!(write(&mut large, &v4(None), &vec![0; 65_508]), None);
    assert_eq!(write(&mut large, &v4(None), &vec![0; 65_507]), Some(65_549));
    let mixed = headers("198.51.100.7:1", "[2001:db8::1]:2", None, None);
    assert_eq!(write(&mut large, &mixed, b"x"), None);
}

#[test]
fn refusals_are_counted_by_reason() {
    let mut refusals = Refusals::default();
    for (times, refusal) in (1..).zip(Refusal::ALL) {
        (0..times).for_each(|_| refusals.add(refusal));
    }
    for (times, refusal) in (1..).zip(Refusal::ALL) {
        assert_eq!(refusals.count(refusal), times, "{}", refusal.label());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_are_read_or_refused(
        input in prop::collection::vec(any::<u8>(), 0..120),
        base in 0..4_usize,
    ) {
        fuzz_frame(&input);
        // The same bytes over a good frame.
        let headers = [v4(None), v4(Some(7)), v6(None), v6(Some(7))][base];
        let mut frame = frame(&headers, &[7; 64]);
        for (to, from) in frame.iter_mut().skip(12).zip(&input) {
            *to ^= from & input.len() as u8;
        }
        fuzz_frame(&frame);
    }

    #[test]
    fn sum_is_that_of_words_taken_one_by_one(bytes in prop::collection::vec(any::<u8>(), 0..70)) {
        let mut expected = 0_u32;
        for word in bytes.chunks(2) {
            expected += u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low));
            expected = (expected & 0xffff) + (expected >> 16);
        }
        prop_assert_eq!(u32::from(sum(&bytes, 0)), expected);
    }
}
