#![expect(
    clippy::disallowed_methods,
    reason = "an `Instant` can be had in no other way; only its steps matter"
)]

use super::*;

const DEMO: &[u8] = include_bytes!("../../../assets/demo.mp4");

/// The demo cut into its header and its fragments, as ffmpeg wrote them: `(offset, kind)` decides.
fn demo() -> (Bytes, Vec<Bytes>) {
    let file = Bytes::from_static(DEMO);
    let mut cuts = Vec::new();
    let mut at = 0;
    for kind in fmp4::box_kinds(DEMO) {
        if &kind == b"moof" {
            cuts.push(at);
        }
        at += u32::from_be_bytes(DEMO[at..at + 4].try_into().unwrap()) as usize;
    }
    let header = file.slice(..cuts[0]);
    let ends = cuts.iter().skip(1).copied().chain([at]);
    let fragments = cuts.iter().zip(ends).map(|(from, to)| file.slice(*from..to)).collect();
    (header, fragments)
}

/// Everything the demo holds, as the reader alone sees it.
fn wanted() -> Vec<Bytes> {
    let mut reader = Reader::new();
    reader.handle_input(DEMO).unwrap();
    let events = std::iter::from_fn(|| reader.poll_event());
    events
        .filter_map(|event| match event {
            fmp4::Event::Sample { sample, .. } => Some(sample.data),
            fmp4::Event::Tracks(_) => None,
        })
        .collect()
}

fn samples(intake: &mut Intake) -> Vec<Bytes> {
    let events = std::iter::from_fn(|| intake.poll_event());
    events
        .filter_map(|event| match event {
            Event::Sample(sample) => Some(sample.data),
            _ => None,
        })
        .collect()
}

fn intake(tracks: &[(u64, &str)]) -> Intake {
    let mut intake = Intake::new(Limits::default());
    for (key, name) in tracks {
        intake.open_track(*key, name.as_bytes());
    }
    intake
}

fn sorted(mut samples: Vec<Bytes>) -> Vec<Bytes> {
    samples.sort();
    samples
}

#[test]
fn a_file_in_one_track_gives_every_sample_whether_its_header_comes_first_or_in_the_catalog() {
    let now = Instant::now();
    let (header, fragments) = demo();
    let wanted = sorted(wanted());
    // In front of the first chunk.
    let mut front = intake(&[(1, "all")]);
    let first = Bytes::from([&header[..], &fragments[0]].concat());
    front.handle_object(1, 0, 0, &first, now).unwrap();
    for (group, fragment) in fragments.iter().enumerate().skip(1) {
        front.handle_group_end(1, group as u64 - 1, now).unwrap();
        front.handle_object(1, group as u64, 0, fragment, now).unwrap();
    }
    assert_eq!(sorted(samples(&mut front)), wanted);
    // In a catalog that comes last.
    let mut late = intake(&[(1, "all"), (2, ".catalog")]);
    for (object, fragment) in fragments.iter().enumerate() {
        assert_eq!(late.handle_object(1, 0, object as u64, fragment, now), Ok(Taken::Media));
    }
    assert_eq!(samples(&mut late), Vec::<Bytes>::new());
    assert!(late.held_bytes() > 0 && late.poll_timeout().is_some());
    let init = base64(&header);
    let json = format!(r#"{{"version":1,"tracks":[{{"name":"all","init":"{init}"}}]}}"#);
    late.handle_object(2, 0, 0, &Bytes::from(json), now).unwrap();
    assert_eq!(sorted(samples(&mut late)), wanted);
    assert_eq!((late.held_bytes(), late.poll_timeout()), (0, None));
    // On a track of its own.
    let mut own = intake(&[(1, "init"), (2, "all")]);
    own.handle_object(1, 0, 0, &header, now).unwrap();
    for (object, fragment) in fragments.iter().enumerate() {
        own.handle_object(2, 0, object as u64, fragment, now).unwrap();
    }
    assert_eq!(sorted(samples(&mut own)), wanted);
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word << (8 * (3 - three.len()));
        for index in 0..4 {
            let letter = char::from(LETTERS[(word >> (18 - 6 * index) & 63) as usize]);
            text.push(if index <= three.len() { letter } else { '=' });
        }
    }
    text
}

#[test]
fn a_track_of_text_or_noise_is_not_media_and_passes() {
    let now = Instant::now();
    let mut intake = intake(&[(1, "chat"), (2, "noise")]);
    for payload in [&b"hello"[..], b"", &[0xff; 64], b"\0\0\0\x08free"] {
        let payload = Bytes::copy_from_slice(payload);
        for key in [1, 2] {
            assert_eq!(intake.handle_object(key, 0, 0, &payload, now), Ok(Taken::Other));
        }
    }
    assert!(intake.poll_event().is_none());
}

#[test]
fn chunks_without_an_initialisation_are_refused_after_a_while() {
    let now = Instant::now();
    let mut intake = intake(&[(1, "video")]);
    intake.handle_object(1, 0, 0, &demo().1[0], now).unwrap();
    let until = intake.poll_timeout().unwrap();
    assert_eq!(intake.handle_timeout(now), Ok(()));
    let error = intake.handle_timeout(until).unwrap_err();
    assert_eq!(error, Error::NoInit("video".into()));
    assert_eq!(error.end_reason(), EndReason::Protocol);
}

#[test]
fn a_codec_that_is_not_carried_is_named() {
    let now = Instant::now();
    let (header, _) = demo();
    let mut header = header.to_vec();
    let at = header.windows(4).position(|four| four == b"avc1").unwrap();
    header.get_mut(at..at + 4).unwrap().copy_from_slice(b"mp4v");
    let at = header.windows(4).rposition(|four| four == b"avc1");
    if let Some(at) = at {
        header.get_mut(at..at + 4).unwrap().copy_from_slice(b"mp4v");
    }
    let mut intake = intake(&[(1, "video")]);
    let error = intake.handle_object(1, 0, 0, &Bytes::from(header), now).unwrap_err();
    assert_eq!(error.to_string(), "codec_unsupported: video has codec 'mp4v'");
    assert!(matches!(error.end_reason(), EndReason::Unsupported(_)));
}

#[test]
fn broken_boxes_and_a_group_without_a_keyframe_are_refused() {
    let now = Instant::now();
    let (header, fragments) = demo();
    let whole = Bytes::from([&header[..], &fragments[0]].concat());
    let mut cut = intake(&[(1, "video")]);
    let short = whole.slice(..whole.len() - 1);
    let error = cut.handle_object(1, 0, 0, &short, now).unwrap_err();
    assert!(error.to_string().starts_with("fmp4_invalid: video"), "{error}");

    // The first fragment once more, with its sync sample declared to be none.
    let mut reader = Reader::new();
    reader.handle_input(&whole).unwrap();
    let mut dependent = fragments[0].to_vec();
    let trun = dependent.windows(4).position(|four| four == b"trun").unwrap();
    let bits = u32::from_be_bytes(dependent[trun + 4..trun + 8].try_into().unwrap());
    assert_ne!(bits & 0x4, 0, "the demo says first-sample-flags");
    let flags = trun + 4 + 4 + 4 + if bits & 1 != 0 { 4 } else { 0 };
    dependent[flags..flags + 4].copy_from_slice(&0x0101_0000u32.to_be_bytes());
    let mut group = intake(&[(1, "init"), (2, "video")]);
    group.handle_object(1, 0, 0, &header, now).unwrap();
    let error = group.handle_object(2, 7, 0, &Bytes::from(dependent), now).unwrap_err();
    assert_eq!(error, Error::GroupStart { track: "video".into(), group: 7 });
}

#[test]
fn decode_times_may_jump_back_once_but_not_keep_running_backwards() {
    let now = Instant::now();
    let (header, fragments) = demo();
    let mut intake = intake(&[(1, "init"), (2, "all")]);
    intake.handle_object(1, 0, 0, &header, now).unwrap();
    intake.handle_object(2, 0, 0, &fragments[1], now).unwrap();
    intake.handle_object(2, 0, 1, &fragments[0], now).unwrap();
    assert!(!samples(&mut intake).is_empty(), "a jump is the packager's to put right");
    let Some(Track { kind: Kind::Media(media), .. }) = intake.tracks.get_mut(&2) else {
        panic!("media")
    };
    for held in &mut media.known {
        (held.backwards, held.last_dts) = (Limits::default().backwards, i64::MAX);
    }
    let error = intake.handle_object(2, 0, 2, &fragments[2], now).unwrap_err();
    assert_eq!(error, Error::Backwards("all".into()));
}

fn object(group: u64, object: u64) -> Step {
    Step::Object(group, object, Bytes::from(vec![group as u8, object as u8]))
}

fn put(order: &mut Order, group: u64, object: u64, now: Instant) -> Vec<Step> {
    let payload = Bytes::from(vec![group as u8, object as u8]);
    order.handle_object(group, object, payload, 1_000, now)
}

#[test]
fn a_newer_group_waits_for_the_one_before_and_no_longer_than_it_may() {
    let now = Instant::now();
    let mut order = Order::default();
    assert_eq!(put(&mut order, 5, 0, now), [object(5, 0)]);
    assert_eq!(put(&mut order, 6, 0, now), []);
    assert_eq!(put(&mut order, 5, 1, now), [object(5, 1)]);
    assert_eq!(order.handle_end(5, now), [object(6, 0)]);
    assert_eq!(order.since(), None);
    // The end of 7 is known before 6 is over; 8 follows at once.
    assert_eq!(put(&mut order, 7, 0, now), []);
    assert_eq!(order.handle_end(7, now), []);
    assert_eq!(put(&mut order, 8, 0, now), []);
    assert_eq!(order.handle_end(6, now), [object(7, 0), object(8, 0)]);
    // 8 never ends: 9 is read when its time is over, and what then comes of 8 is too late.
    assert_eq!(put(&mut order, 9, 1, now), []);
    let late = Duration::from_millis(500);
    assert_eq!(order.handle_timeout(late, now), []);
    let steps = order.handle_timeout(late, now + late);
    assert_eq!(steps, [Step::Lost, Step::Lost, object(9, 1)]);
    assert_eq!(put(&mut order, 8, 1, now), []);
    assert_eq!(order.held_bytes(), 0);
}

#[test]
fn a_full_hold_gives_the_group_before_up() {
    let now = Instant::now();
    let mut order = Order::default();
    assert_eq!(put(&mut order, 1, 0, now), [object(1, 0)]);
    let payload = Bytes::from(vec![2, 0]);
    assert_eq!(order.handle_object(2, 0, payload, 1, now), [Step::Lost, object(2, 0)]);
    assert_eq!(order.held_bytes(), 0);
}
