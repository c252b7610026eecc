//! What happens to a broadcast when its publisher behaves, misbehaves, restarts or lies about time.
//! The hard cases that other servers met are listed in `engine/feed/README.md`, with the test that holds each.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests own the clock and may fail loudly"
)]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::*;
use proptest::prelude::*;
use weir_packager::fmp4::ProducerReference;
use weir_packager::{AccessUnit, Codec, Counters, Error, Options, Output, TrackId};

fn init_of(feed: &Feed, name: &str) -> Vec<u8> {
    feed.last_catalog().tracks.into_iter().find(|track| track.name == name).unwrap().init
}

fn read_video(feed: &Feed) -> Vec<Read> {
    read_back(&init_of(feed, "video/360p"), &feed.objects("video/360p"))
}

fn read_audio(feed: &Feed) -> Vec<Read> {
    read_back(&init_of(feed, "audio"), &feed.objects("audio"))
}

fn feed_with_both() -> Feed {
    let mut feed = Feed::new(Options { first_group: 1_763_690_000_000, ..Options::default() });
    feed.track(video_config(RECORD_360P));
    feed.track(audio_config());
    feed
}

#[test]
fn a_well_behaved_feed_becomes_aligned_groups_on_a_smooth_grid() {
    let mut feed = feed_with_both();
    feed.run(4711, 4711 + 10_000);
    let (video, audio) = (read_video(&feed), read_audio(&feed));
    check_track(&video);
    check_track(&audio);
    assert_eq!(video.len(), 300);
    for (frame, pair) in video.windows(2).enumerate() {
        assert!(
            (pair[1].dts - pair[0].dts - 3000).abs() <= if frame < 8 { 90 } else { 1 },
            "frame {frame}"
        );
        assert!((i64::from(pair[0].duration) - 3000).abs() <= 1, "declared {}", pair[0].duration);
    }
    for pair in audio.windows(2) {
        assert_eq!(pair[1].dts - pair[0].dts, 1024);
    }
    let keyframes: Vec<_> =
        video.iter().filter(|read| read.keyframe).map(|read| (read.group, read.object)).collect();
    let expected: Vec<_> = (0..10).map(|group| (1_763_690_000_000 + group, 0)).collect();
    assert_eq!(keyframes, expected);
    let (starts, sound_starts) = (group_starts(&video, 90_000.0), group_starts(&audio, 48_000.0));
    assert_eq!(starts.keys().collect::<Vec<_>>(), sound_starts.keys().collect::<Vec<_>>());
    for (group, start) in &starts {
        let late = sound_starts[group] - start;
        assert!(
            (-0.001..0.045).contains(&late),
            "audio of group {group} starts {late} s after its video"
        );
    }
    assert_eq!(*feed.packager.counters(), Counters::default());
}

#[test]
fn tracks_are_announced_before_their_objects_and_catalogs_first_of_all() {
    let mut feed = feed_with_both();
    feed.run(0, 1000);
    let mut known = Vec::new();
    let mut first_object = None;
    for output in &feed.outputs {
        match output {
            Output::Track { name } => known.push(name.to_string()),
            Output::Object(object) => {
                assert!(known.contains(&object.track.to_string()));
                first_object.get_or_insert(object.track.to_string());
                let priority = match &*object.track {
                    "audio" => 1,
                    "video/360p" => 2,
                    _ => 0,
                };
                assert_eq!(object.priority, priority);
                assert_eq!(object.end_of_group, priority == 0);
            }
            Output::TrackEnded { .. } => panic!("ended"),
        }
    }
    assert_eq!(known, ["video/360p", "audio", ".catalog", "catalog"]);
    assert_eq!(first_object.as_deref(), Some(".catalog"));
}

#[test]
fn catalogs_are_published_every_two_seconds_each_in_a_new_group() {
    let mut feed = feed_with_both();
    feed.run(0, 10_000);
    for name in [".catalog", "catalog"] {
        let groups: Vec<_> =
            feed.objects(name).iter().map(|object| (object.group, object.object)).collect();
        let expected: Vec<_> =
            (0..groups.len() as u64).map(|n| (1_763_690_000_000 + n, 0)).collect();
        assert_eq!(groups, expected);
        assert!((5..=6).contains(&groups.len()), "{} catalogs", groups.len());
    }
    let catalog = feed.last_catalog();
    let video = &catalog.tracks[0];
    assert_eq!(
        (video.codec.as_str(), video.width, video.height),
        ("avc1.42c01e", Some(640), Some(360))
    );
    assert_eq!(video.framerate, Some(30.0));
    // 300 bytes of picture and 137 of boxes, 30 times a second.
    assert!((95_000..115_000).contains(&video.bitrate.unwrap()), "{:?}", video.bitrate);
    let audio = &catalog.tracks[1];
    assert_eq!(
        (audio.codec.as_str(), audio.sample_rate, audio.channels),
        ("mp4a.40.2", Some(48_000), Some(2))
    );
}

#[test]
fn a_lone_track_is_announced_after_half_a_second_and_late_audio_at_once() {
    let mut feed = Feed::new(Options::default());
    feed.track(video_config(RECORD_360P));
    feed.pass(Duration::from_millis(499));
    assert_eq!(feed.catalogs().len(), 0);
    feed.pass(Duration::from_millis(1));
    assert_eq!(feed.catalogs().len(), 1);
    feed.track(audio_config());
    assert_eq!(feed.catalogs().len(), 2);
    assert_eq!(feed.last_catalog().tracks.len(), 2);
}

#[test]
fn capture_time_travels_in_front_of_every_chunk() {
    let mut feed = feed_with_both();
    feed.run(0, 3000);
    let objects = feed.objects("video/360p");
    for (index, object) in objects.iter().enumerate() {
        let reference = ProducerReference::of_chunk(&object.payload).unwrap();
        let expected = WALL + Duration::from_millis(33) * index as u32;
        assert!(reference.captured.abs_diff(expected) < Duration::from_nanos(2), "{reference:?}");
        assert!(reference.media_time >= 90_000);
    }
}

#[test]
fn b_frames_keep_their_composition_offsets() {
    let mut feed = feed_with_both();
    // I P B B P B B at 25 fps, decode times 40 ms apart.
    let offsets = [80, 160, 40, 40, 160, 40, 40];
    for (index, offset) in (0i64..).zip(offsets.iter().cycle().take(70)) {
        let mut sample = picture(index * 40, index % 35 == 0, index as u32, 100);
        sample.composition_offset = *offset;
        feed.sample(sample);
    }
    let video = read_video(&feed);
    for (read, offset) in video.iter().zip(offsets.iter().cycle()) {
        assert_eq!(read.pts - read.dts, i64::from(*offset) * 90);
    }
    let mut presented: Vec<_> = video.iter().map(|read| read.pts).collect();
    presented.sort_unstable();
    presented.dedup();
    assert_eq!(presented.len(), video.len());
}

#[test]
fn skipped_frames_never_double_the_declared_duration_and_are_shown_in_time() {
    let mut feed = feed_with_both();
    let skipped = |frame: i64| matches!(frame % 60, 7 | 20..=24 | 40..=55);
    let mut sent = Vec::new();
    for frame in (0..600i64).filter(|frame| !skipped(*frame)) {
        feed.sample(picture((frame * 100 + 1) / 3, frame % 60 == 0, frame as u32, 50));
        sent.push(frame);
    }
    let video = read_video(&feed);
    check_track(&video);
    for pair in video.windows(2).filter(|pair| !pair[1].keyframe) {
        assert!(pair[1].dts - pair[0].dts < 2 * i64::from(pair[0].duration), "{pair:?}");
    }
    for (read, frame) in video.iter().zip(sent) {
        assert!((read.pts - video[0].pts - frame * 3000).abs() <= 91, "frame {frame}: {read:?}");
    }
}

#[test]
fn one_frame_stamped_hours_off_does_not_move_the_others() {
    let mut feed = feed_with_both();
    for frame in 0..90i64 {
        let dts = if frame == 40 { 9_000_000 } else { frame * 40 };
        feed.sample(picture(dts, frame % 25 == 0, frame as u32, 50));
    }
    let video = read_video(&feed);
    check_track(&video);
    assert_eq!(video[89].dts - video[0].dts, 89 * 3600);
    assert_eq!(video[40].dts - video[0].dts, 40 * 3600);
    assert_eq!(feed.packager.counters().restamped, 1);
}

#[test]
fn a_jump_of_hours_is_cut_out_and_audio_stays_with_video() {
    let mut feed = feed_with_both();
    feed.run(0, 5000);
    feed.run(40_000_000, 40_005_000);
    feed.run(100, 5100);
    let (video, audio) = (read_video(&feed), read_audio(&feed));
    check_track(&video);
    check_track(&audio);
    let seconds = |read: &[Read], scale| (read.last().unwrap().dts - read[0].dts) as f64 / scale;
    assert!((14.9..15.3).contains(&seconds(&video, 90_000.0)));
    assert!((14.9..15.3).contains(&seconds(&audio, 48_000.0)));
    let drift =
        video.last().unwrap().dts as f64 / 90_000.0 - audio.last().unwrap().dts as f64 / 48_000.0;
    assert!(drift.abs() < 0.1, "drift {drift}");
    assert!(feed.packager.counters().jumps >= 2);
}

#[test]
fn a_restarted_publisher_continues_the_time_line_and_the_groups() {
    let mut feed = feed_with_both();
    feed.run(700_000, 705_500);
    feed.packager.handle_discontinuity();
    feed.drain();
    feed.pass(Duration::from_secs(20));
    // A new connection may number its tracks otherwise and starts its clock at zero.
    let renumber = |mut config: weir_packager::TrackConfig| {
        config.track = TrackId(config.track.0 + 10);
        config
    };
    feed.track(renumber(audio_config()));
    feed.track(renumber(video_config(RECORD_360P)));
    let (before, groups_before) =
        (feed.objects("video/360p").len(), read_video(&feed).last().unwrap().group);
    for frame in 0..100i64 {
        let mut sample = picture(frame * 40, frame % 25 == 10, frame as u32, 50);
        sample.track = TrackId(VIDEO.0 + 10);
        feed.sample(sample);
        feed.pass(Duration::from_millis(40));
    }
    let video = read_video(&feed);
    check_track(&video);
    assert_eq!(video.len() - before, 90, "frames before the first keyframe are dropped");
    assert!(video[before].keyframe);
    assert_eq!(video[before].group, groups_before + 1);
    let gap = video[before].dts - video[before - 1].dts;
    assert!((3000..=12_000).contains(&gap), "gap of {gap}");
    assert!(!feed.outputs.iter().any(|output| matches!(output, Output::TrackEnded { .. })));
    assert_eq!(feed.packager.counters().dropped_before_keyframe, 10);
}

#[test]
fn what_an_encoder_saved_up_while_it_was_away_is_dropped_to_the_last_keyframe() {
    let mut feed = feed_with_both();
    feed.run(0, 5_000);
    feed.packager.handle_discontinuity();
    feed.pass(Duration::from_secs(12));
    feed.track(video_config(RECORD_360P));
    feed.track(audio_config());
    let (video_before, audio_before) = (read_video(&feed), read_audio(&feed));
    // Twelve seconds come in half a second, then three in real time.
    let mut frame = 0;
    let mut sounds = 0;
    while frame < 15 * 25 {
        let ms = frame * 40;
        feed.sample(picture(ms, frame % 25 == 0, 1_000_000 + frame as u32, 50));
        while sounds * 64 / 3 <= ms {
            feed.sample(sound(sounds * 64 / 3, 2_000_000 + sounds as u32, 50));
            sounds += 1;
        }
        feed.pass(Duration::from_millis(if frame < 300 { 2 } else { 40 }));
        frame += 1;
    }
    let (video, audio) = (read_video(&feed), read_audio(&feed));
    check_track(&video);
    check_track(&audio);
    let seed = |read: &Read| u32::from_be_bytes(read.data[5..9].try_into().unwrap()) - 1_000_000;
    let new: Vec<u32> = video[video_before.len()..].iter().map(seed).collect();
    let old = new.iter().take_while(|frame| **frame < 100).count();
    assert!(old < 50, "{old} frames went out before it was known to be a burst");
    assert_eq!(new[old], 300, "what follows starts at the newest keyframe");
    assert_eq!(new.last(), Some(&374));
    // Nothing of the time that was dropped is left on the time line: 2 s sent of the burst and 3 s live at most.
    let added = (video.last().unwrap().dts - video_before.last().unwrap().dts) / 90;
    assert!((3_000..5_200).contains(&added), "{added} ms");
    // Sound and pictures kept together: both have the same span.
    let sound_added = (audio.last().unwrap().dts - audio_before.last().unwrap().dts) / 48;
    assert!((added - sound_added).abs() < 150, "{added} and {sound_added} ms");
    assert!(feed.packager.counters().dropped_backlog > 300);
}

#[test]
fn a_clock_that_runs_fast_is_measured_and_slewed_with_sound_and_picture_together() {
    let mut feed = feed_with_both();
    // Half an hour at 25 fps with a clock 400 ppm fast.
    let (mut frame, mut sounds) = (0_i64, 0_i64);
    while frame < 30 * 60 * 25 {
        let ms = frame * 40;
        feed.sample(picture(ms, frame % 50 == 0, frame as u32, 5));
        while sounds * 64 / 3 <= ms {
            feed.sample(sound(sounds * 64 / 3, sounds as u32, 5));
            sounds += 1;
        }
        feed.pass(Duration::from_micros(39_984));
        frame += 1;
    }
    let health = feed.packager.health(feed.now);
    let ppm = health.drift_ppm.unwrap();
    assert!((ppm - 400.0).abs() < 15.0, "{ppm}");
    let (video, audio) = (read_video(&feed), read_audio(&feed));
    check_track(&video);
    check_track(&audio);
    // Beside our clock: half an hour has passed, though the encoder claims 720 ms more.
    let passed = feed.now.duration_since(feed.start).as_millis() as i64;
    let pictures = (video.last().unwrap().dts - video[0].dts) / 90;
    let sound = (audio.last().unwrap().dts - audio[0].dts) / 48;
    // What it gained in the first half minute, before it was measured, may stay.
    assert!((passed - pictures).abs() < 80, "{passed} and {pictures} ms");
    assert!((sound - pictures).abs() < 70, "{sound} and {pictures} ms");
    assert_eq!(*feed.packager.counters(), Counters::default(), "nothing was dropped");
    assert!(video.windows(2).all(|pair| (pair[1].dts - pair[0].dts - 3_600).abs() <= 180));
}

#[test]
fn an_announced_jump_continues_at_once_with_the_same_tracks() {
    let mut feed = feed_with_both();
    feed.run(5_000_000, 5_002_000);
    let before = read_video(&feed);
    feed.packager.handle_jump();
    feed.drain();
    feed.run(10, 2_010);
    let (video, audio) = (read_video(&feed), read_audio(&feed));
    check_track(&video);
    check_track(&audio);
    assert_eq!(video.len(), 2 * before.len(), "no picture waits for anything");
    assert!(video[before.len()].dts - before.last().unwrap().dts < 9_000);
    assert_eq!(feed.packager.counters().jumps, 1);
    assert!(!feed.outputs.iter().any(|output| matches!(output, Output::TrackEnded { .. })));
}

#[test]
fn health_tells_what_the_encoder_is_set_to() {
    let mut feed = feed_with_both();
    feed.run(0, 8_000);
    let health = feed.packager.health(feed.now);
    let [video, audio] = &health.tracks[..] else { panic!("{health:?}") };
    assert_eq!((&*video.name, video.codec.as_str()), ("video/360p", "avc1.42c01e"));
    assert_eq!((video.width, video.height, video.b_frames), (Some(640), Some(360), false));
    assert_eq!(video.keyframe_interval.map(|span| span.as_millis()), Some(1_000));
    assert!((video.frame_rate.unwrap() - 30.0).abs() < 1.0, "{video:?}");
    assert!((video.nominal_rate.unwrap() - 30.0).abs() < 0.1);
    let bits = video.bitrate.unwrap();
    assert!((60_000..90_000).contains(&bits), "{bits}");
    assert_eq!((audio.sample_rate, audio.channels), (Some(48_000), Some(2)));
    assert!(health.audio_delay_ms.unwrap().abs() < 60, "{health:?}");
}

#[test]
fn a_publisher_that_comes_back_without_audio_loses_the_audio_track() {
    let mut feed = feed_with_both();
    feed.run(0, 1000);
    feed.packager.handle_discontinuity();
    feed.track(video_config(RECORD_360P));
    feed.pass(Duration::from_secs(4));
    assert_eq!(feed.last_catalog().tracks.len(), 2);
    feed.pass(Duration::from_secs(2));
    assert_eq!(feed.last_catalog().tracks.len(), 1);
    assert!(feed.outputs.contains(&Output::TrackEnded { name: "audio".into() }));
}

#[test]
fn repeated_parameter_sets_change_nothing_and_new_ones_start_a_new_track() {
    let mut feed = feed_with_both();
    feed.run(0, 1000);
    let catalogs = feed.catalogs().len();
    for _ in 0..10 {
        feed.track(video_config(RECORD_360P));
    }
    assert_eq!(feed.catalogs().len(), catalogs);
    feed.track(video_config(RECORD_1080P));
    assert_eq!(feed.catalogs().len(), catalogs + 1);
    assert_eq!(feed.last_catalog().tracks[0].name, "video/1080p");
    assert!(feed.outputs.contains(&Output::TrackEnded { name: "video/360p".into() }));
    feed.sample(picture(1033, false, 1, 50));
    assert_eq!(feed.objects("video/1080p").len(), 0, "waits for a keyframe");
    feed.sample(picture(1066, true, 1, 50));
    let new = feed.objects("video/1080p");
    assert_eq!((new.len(), new[0].object), (1, 0));
    assert!(new[0].group > feed.objects("video/360p").last().unwrap().group);
}

#[test]
fn audio_alone_is_cut_by_duration() {
    let mut feed = Feed::new(Options::default());
    feed.track(audio_config());
    for frame in 0..470i64 {
        feed.sample(sound(frame * 64 / 3, frame as u32, 100));
    }
    feed.pass(Duration::from_millis(500));
    let audio = read_audio(&feed);
    check_track(&audio);
    let starts = group_starts(&audio, 48_000.0);
    assert_eq!(starts.len(), 10);
    for (one, two) in starts.values().zip(starts.values().skip(1)) {
        assert!((0.99..1.05).contains(&(two - one)), "{}", two - one);
    }
}

#[test]
fn a_hole_in_audio_stays_a_hole() {
    let mut feed = feed_with_both();
    for frame in 0..250i64 {
        feed.sample(picture(frame * 40, frame % 25 == 0, frame as u32, 50));
        if !(50..175).contains(&frame) {
            feed.sample(sound(frame * 40, frame as u32, 50));
            feed.sample(sound(frame * 40 + 21, frame as u32, 50));
        }
    }
    let (video, audio) = (read_video(&feed), read_audio(&feed));
    check_track(&audio);
    let longest = audio.windows(2).map(|pair| pair[1].dts - pair[0].dts).max().unwrap();
    assert!((longest as f64 / 48_000.0 - 5.0).abs() < 0.1);
    assert_eq!(video.last().unwrap().group, audio.last().unwrap().group);
}

#[test]
fn a_keyframe_that_never_comes_is_counted_and_a_recovery_point_serves() {
    let recovery = |dts| {
        let mut sample = picture(dts, false, 7, 50);
        sample.keyframe = true;
        sample.data = [&[0, 0, 0, 5, 6, 6, 1, 0xc4, 0x80][..], &sample.data].concat().into();
        assert_eq!(AccessUnit::classify(&sample.data, 4), Ok(AccessUnit::RecoveryPoint));
        sample
    };
    let mut feed = feed_with_both();
    feed.sample(picture(0, true, 0, 50));
    for frame in 1..1000i64 {
        feed.sample(if frame % 50 == 0 {
            recovery(frame * 40)
        } else {
            picture(frame * 40, false, 1, 50)
        });
    }
    let groups = group_starts(&read_video(&feed), 90_000.0);
    assert_eq!(groups.len(), 4, "every 10 s at most: {groups:?}");
    assert_eq!(feed.packager.counters().long_groups, 3);
}

#[test]
fn an_encoder_clock_that_drifts_is_followed_without_gaps() {
    let mut feed = Feed::new(Options::default());
    feed.track(audio_config());
    // 300 ppm fast for two hours: 2.2 s in all.
    let frames = 7200 * 48_000 / 1024;
    for frame in 0..frames {
        feed.sample(sound((frame as f64 * 1024.0 / 48.0 * 1.0003) as i64, 1, 8));
    }
    feed.pass(Duration::from_millis(500));
    let audio = read_audio(&feed);
    for pair in audio.windows(2) {
        assert!((1024..=1028).contains(&(pair[1].dts - pair[0].dts)));
    }
    let end = (audio.last().unwrap().dts - audio[0].dts) as f64 / 48_000.0;
    assert!((end - 7200.0 * 1.0003).abs() < 0.05, "{end}");
}

#[test]
fn the_end_flushes_and_says_so() {
    let mut feed = feed_with_both();
    feed.run(0, 990);
    let sent = feed.sent.iter().filter(|sample| sample.track == AUDIO).count();
    feed.packager.handle_end();
    feed.drain();
    assert_eq!(read_audio(&feed).len(), sent);
    assert!(!feed.last_catalog().live);
    let ended =
        feed.outputs.iter().filter(|output| matches!(output, Output::TrackEnded { .. })).count();
    assert_eq!(ended, 4);
    let now = feed.now;
    assert_eq!(feed.packager.handle_sample(sound(0, 0, 1), WALL, now), Err(Error::Ended));
    assert_eq!(feed.packager.poll_timeout(), None);
}

#[test]
fn nonsense_is_refused_and_the_broadcast_goes_on() {
    let mut feed = feed_with_both();
    let now = feed.now;
    feed.run(0, 500);
    let mut broken = picture(500, true, 1, 50);
    broken.data = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x65]);
    assert!(matches!(feed.packager.handle_sample(broken, WALL, now), Err(Error::Sample(_))));
    let mut stranger = sound(0, 0, 5);
    stranger.track = TrackId(99);
    assert_eq!(feed.packager.handle_sample(stranger, WALL, now), Err(Error::UnknownTrack(99)));
    let mut config = audio_config();
    config.timescale = 0;
    assert_eq!(feed.packager.handle_track(config, now), Err(Error::Timescale(0)));
    let mut config = audio_config();
    config.codec = Codec::Aac { config: Bytes::new() };
    assert!(matches!(feed.packager.handle_track(config, now), Err(Error::Config { .. })));
    for id in 10..24 {
        let mut config = audio_config();
        config.track = TrackId(id);
        feed.track(config);
    }
    let mut config = audio_config();
    config.track = TrackId(50);
    assert_eq!(feed.packager.handle_track(config, now), Err(Error::TooManyTracks(16)));
    feed.sample(picture(510, false, 1, 10));
    check_track(&read_video(&feed));
    assert!(feed.last_catalog().tracks.iter().any(|track| track.name == "audio/15"));
}

#[derive(Debug, Clone)]
enum Act {
    Video { advance: i64, keyframe: bool, offset: i32, size: usize },
    Audio { advance: i64, size: usize },
    Jump { to: i64 },
    Wild { dts: i64 },
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        20 => (prop_oneof![9 => 30i64..45, 1 => -100i64..200], prop::bool::weighted(0.1), prop_oneof![9 => 0i32..200, 1 => any::<i32>()], 1usize..2000)
            .prop_map(|(advance, keyframe, offset, size)| Act::Video { advance, keyframe, offset, size }),
        20 => (prop_oneof![9 => 20i64..23, 1 => -100i64..400], 1usize..400).prop_map(|(advance, size)| Act::Audio { advance, size }),
        1 => any::<i64>().prop_map(|to| Act::Jump { to }),
        1 => any::<i64>().prop_map(|dts| Act::Wild { dts }),
        1 => Just(Act::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a publisher stamps: decode times grow, groups and objects are in order, tracks agree on what a group is,
    /// and every byte that was not dropped (and counted) arrives once, in order, unchanged.
    #[test]
    fn any_time_line_becomes_a_sane_broadcast(acts in prop::collection::vec(act(), 1..400)) {
        let mut feed = feed_with_both();
        feed.sample(picture(0, true, 0, 10));
        let (mut video_ms, mut audio_ms) = (0i64, 0i64);
        for (seed, act) in (1u32..).zip(acts) {
            match act {
                Act::Video { advance, keyframe, offset, size } => {
                    video_ms = video_ms.saturating_add(advance);
                    let mut sample = picture(video_ms, keyframe, seed, size);
                    sample.composition_offset = offset;
                    feed.sample(sample);
                }
                Act::Audio { advance, size } => {
                    audio_ms = audio_ms.saturating_add(advance);
                    feed.sample(sound(audio_ms, seed, size));
                }
                Act::Jump { to } => (video_ms, audio_ms) = (to, to),
                Act::Wild { dts } => feed.sample(picture(dts, false, seed, 10)),
                Act::Restart => {
                    feed.packager.handle_discontinuity();
                    feed.track(video_config(RECORD_360P));
                    feed.track(audio_config());
                    (video_ms, audio_ms) = (0, 0);
                }
            }
            feed.pass(Duration::from_millis(25));
        }
        feed.packager.handle_end();
        feed.drain();
        let (video, audio) = (read_video(&feed), read_audio(&feed));
        check_track(&video);
        check_track(&audio);
        for pair in video.windows(2) {
            prop_assert!(pair[1].group == pair[0].group || pair[1].keyframe, "a video group starts with a keyframe");
        }
        let counters = *feed.packager.counters();
        for (track, read, dropped) in [
            (VIDEO, &video, counters.dropped_before_keyframe),
            (AUDIO, &audio, counters.dropped_overlap),
        ] {
            let mut sent = feed.sent.iter().filter(|sample| sample.track == track);
            prop_assert_eq!(sent.clone().count() as u64, read.len() as u64 + dropped);
            for read in read {
                prop_assert!(sent.any(|sample| sample.data == read.data), "a sample arrived altered or out of order");
            }
        }
        // The whole time line is no longer than what was claimed in steady steps and gaps that are believed.
        let end = video.last().unwrap().dts / 90_000;
        prop_assert!(end < 1200, "{} s", end);
    }
}
