use super::*;
use crate::Codec;
use crate::boxes::{children, find};

const DEMO: &[u8] = include_bytes!("../../../engine/assets/demo.mp4");

fn read(file: &[u8], piece: usize) -> Vec<Event> {
    let mut reader = Reader::new();
    for piece in file.chunks(piece) {
        reader.handle_input(piece).unwrap();
    }
    reader.handle_end().unwrap();
    std::iter::from_fn(|| reader.poll_event()).collect()
}

#[test]
fn the_demo_is_what_it_should_be() {
    assert!(DEMO.len() <= 450 * 1024);
    let events = read(DEMO, DEMO.len());
    let Event::Tracks(tracks) = &events[0] else { panic!("no tracks") };
    let [video, audio] = &tracks[..] else { panic!("not two tracks") };
    let Codec::H264 { record } = &video.codec else { panic!("no H.264") };
    let avc = crate::AvcConfig::parse(record).unwrap();
    assert_eq!((avc.sps.width, avc.sps.height, avc.sps.reorder_depth), (640, 360, Some(0)));
    let Codec::Aac { config } = &audio.codec else { panic!("no AAC") };
    let aac = crate::AacConfig::parse(config).unwrap();
    assert_eq!((aac.sample_rate, aac.channels, aac.object_type), (48_000, 2, 2));
    let samples = |id| {
        events.iter().filter_map(move |event| match event {
            Event::Sample { sample, .. } if sample.track == id => Some(sample),
            _ => None,
        })
    };
    assert_eq!(samples(video.track).count(), 480);
    assert_eq!(samples(audio.track).count(), 750);
    for (index, sample) in samples(video.track).enumerate() {
        assert_eq!(sample.dts, index as i64 * 3000);
        assert_eq!(sample.keyframe, index % 30 == 0, "frame {index}");
    }
}

#[test]
fn pieces_of_any_size_read_the_same() {
    let whole = read(DEMO, DEMO.len());
    for piece in [1, 7, 4096] {
        assert!(read(DEMO, piece) == whole, "pieces of {piece}");
    }
}

#[test]
fn the_loop_has_no_seam() {
    let looper = Looper::new(DEMO).unwrap();
    assert_eq!(looper.length(), Duration::from_secs(16));
    let video = looper.tracks()[0].track;
    let mut last: [Option<i64>; 2] = [None; 2];
    let mut due = Duration::ZERO;
    for timed in looper.take(1230 * 3) {
        assert!(timed.due >= due);
        due = timed.due;
        let (slot, step) = if timed.sample.track == video { (0, 3000) } else { (1, 1024) };
        if let Some(last) = last[slot] {
            assert_eq!(timed.sample.dts - last, step);
        }
        last[slot] = Some(timed.sample.dts);
    }
    assert_eq!(last, [Some(3 * 480 * 3000 - 3000), Some(3 * 750 * 1024 - 1024)]);
}

#[test]
fn the_end_inside_a_box_is_noticed() {
    let mut reader = Reader::new();
    reader.handle_input(&DEMO[..DEMO.len() - 1]).unwrap();
    assert_eq!(reader.handle_end(), Err(Error::Truncated));
}

fn boxed(kind: [u8; 4], body: &[u8]) -> Vec<u8> {
    [&(8 + body.len() as u32).to_be_bytes()[..], &kind, body].concat()
}

#[test]
fn absurd_sizes_are_claims_and_cost_nothing() {
    for (what, bytes) in [
        ("size 0", [0u32.to_be_bytes(), *b"moov"].concat()),
        ("size 2", [2u32.to_be_bytes(), *b"moov"].concat()),
        ("2^63", [&[0, 0, 0, 1][..], b"moov", &(1u64 << 63).to_be_bytes()].concat()),
        ("moov of 4 GiB", [u32::MAX.to_be_bytes(), *b"moov"].concat()),
        ("mdat of 4 GiB", [u32::MAX.to_be_bytes(), *b"mdat"].concat()),
        (
            "64-bit size below its own header",
            [&[0, 0, 0, 1][..], b"mdat", &15u64.to_be_bytes()].concat(),
        ),
    ] {
        let mut reader = Reader::new();
        assert!(reader.handle_input(&bytes).is_err(), "{what}");
        assert!(reader.buffered() < 100, "{what}");
    }
    // Unknown boxes are skipped, however long they say they are.
    let mut reader = Reader::new();
    reader
        .handle_input(&[&[0, 0, 0, 1][..], b"free", &(1u64 << 63).to_be_bytes()].concat())
        .unwrap();
    for _ in 0..100 {
        reader.handle_input(&vec![0; 65_536]).unwrap();
        assert_eq!(reader.buffered(), 0);
    }
}

#[test]
fn ten_thousand_nested_boxes_end_early() {
    let mut nest = Vec::new();
    for _ in 0..10_000 {
        nest = boxed(*b"moov", &nest);
    }
    let mut reader = Reader::new();
    // The outermost moov holds no tracks; nobody looks deeper than the layout says.
    reader.handle_input(&nest).unwrap();
    assert_eq!(reader.poll_event(), Some(Event::Tracks(Vec::new())));
}

#[test]
fn a_trun_of_two_to_the_32_samples_is_refused() {
    let init_end = children(DEMO).flatten().find(|child| &child.kind == b"moof").unwrap().at;
    let init = &DEMO[..init_end];
    for bits in [0u32, 0x200, 0xf00] {
        let tfhd = boxed(*b"tfhd", &[0, 0, 0, 0, 0, 0, 0, 1]);
        let trun = boxed(*b"trun", &[bits.to_be_bytes(), u32::MAX.to_be_bytes()].concat());
        let moof = boxed(*b"moof", &boxed(*b"traf", &[tfhd, trun].concat()));
        let mut reader = Reader::new();
        reader.handle_input(init).unwrap();
        let result = reader.handle_input(&[moof, boxed(*b"mdat", &[0; 10])].concat());
        assert_eq!(result, Err(Error::TooMany("samples")));
    }
}

#[test]
fn samples_outside_their_mdat_are_refused() {
    let moof = children(DEMO).flatten().find(|child| &child.kind == b"moof").unwrap();
    let traf = find(moof.body, *b"traf").unwrap();
    let trun = find(traf.body, *b"trun").unwrap();
    let offset_at = moof.body_at + traf.body_at + trun.body_at + 8;
    for offset in [0i32, -1, i32::MIN, i32::MAX, 20] {
        let mut file = DEMO.to_vec();
        file[offset_at..offset_at + 4].copy_from_slice(&offset.to_be_bytes());
        assert_eq!(Reader::new().handle_input(&file), Err(Error::OutsideMdat), "{offset}");
    }
}
