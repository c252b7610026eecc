//! Entry points for fuzzers: each takes any bytes and must neither panic nor hold more than 16 MiB.

use bytes::Bytes;

use crate::codec::Configuration;
use crate::{Codec, aac, catalog, fmp4, h264, merge};

/// The H.264 decoder configuration record, and the same bytes as an access unit.
pub fn fuzz_avc_config(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(config) = h264::AvcConfig::parse(&bytes) {
        assert!(config.sps.width <= 16_888 && config.sps.height <= 16_888, "sizes are bounded");
        let record = Bytes::from(config.to_record());
        assert_eq!(h264::AvcConfig::parse(&record), Ok(config), "reads what it writes");
    }
    for length_size in [1, 2, 4] {
        let _ = h264::AccessUnit::classify(data, length_size);
    }
    let _ = h264::Sps::parse(data);
}

/// The AAC `AudioSpecificConfig`.
pub fn fuzz_aac_config(data: &[u8]) {
    if let Ok(config) = aac::AacConfig::parse(data) {
        assert!(config.sample_rate > 0 && config.frame_samples > 0, "rates are usable");
    }
}

/// Each codec's configuration, and the same bytes as its samples: the first byte chooses the codec.
pub fn fuzz_codecs(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    let bytes = Bytes::copy_from_slice(rest);
    let codec = match choice % 9 {
        0 => Codec::H264 { record: bytes },
        1 => Codec::Hevc { record: bytes },
        2 => Codec::Av1 { record: bytes },
        3 => Codec::Vp9 { record: bytes },
        4 => Codec::Aac { config: bytes },
        5 => Codec::Opus { head: bytes },
        6 => Codec::Flac { stream_info: bytes },
        7 => Codec::Ac3 { specific: bytes },
        _ => Codec::Eac3 { specific: bytes },
    };
    let _ = codec.access_unit(rest);
    let _ = crate::ac3_codec_of(rest).map(|codec| codec.check());
    if let Ok(Some(kept)) = crate::without_delimiters(rest) {
        assert_eq!(crate::without_delimiters(&kept), Ok(None), "all of them are gone");
    }
    let _ = crate::HevcSps::parse(rest);
    let size = codec.keyframe_size(rest).or(Some((16, 16)));
    match Configuration::parse(&codec, size) {
        // What parses can be written and read back.
        Ok(Configuration::Video(video)) => {
            let _ = video.classify(rest);
            let init = crate::cmaf::init::video(1, 90_000, &video);
            assert_eq!(fmp4::tracks_of(&init).map(|tracks| tracks.len()), Ok(1));
        }
        Ok(Configuration::Audio(audio)) => {
            let _ = audio.frame_samples(rest);
            let init = crate::cmaf::init::audio(1, &audio);
            let tracks = fmp4::tracks_of(&init).unwrap_or_default();
            assert_eq!(tracks.first().map(|track| &track.codec), Some(&codec));
        }
        Err(_) => {}
    }
}

/// Fragmented MP4, whole and in pieces, and the splicing of headers and chunks.
pub fn fuzz_fmp4(data: &[u8]) {
    let mut reader = fmp4::Reader::new();
    for piece in data.chunks(7) {
        if reader.handle_input(piece).is_err() {
            break;
        }
        assert!(reader.buffered() <= 16 * 1024 * 1024, "memory is bounded");
    }
    while reader.poll_event().is_some() {}
    let _ = fmp4::Looper::new(data).map(|looper| looper.take(3).count());
    let _ = fmp4::ProducerReference::of_chunk(data);
    let _ = merge::merge_inits([data, data]);
    let _ = merge::rewrite_chunk(&mut data.to_vec(), 1, 1);
    let mut moved = data.to_vec();
    if merge::rebase_chunk(&mut moved, 7).is_ok() {
        let (before, after) = (merge::decode_time(data), merge::decode_time(&moved));
        assert_eq!(after, before.map(|time| time.saturating_sub(7)), "no further than to zero");
    }
}

/// The `.catalog` object as a client reads it, and a publisher's as the node does.
pub fn fuzz_catalog(data: &[u8]) {
    if let Ok(inits) = crate::inits_of(data) {
        let bytes: usize = inits.iter().map(|(name, init)| name.len() + init.len()).sum();
        assert!(bytes <= (1 + catalog::TRACKS_MAX) * data.len(), "memory is bounded");
    }
    if let Ok(parsed) = catalog::Catalog::parse(data) {
        assert_eq!(
            catalog::Catalog::parse(&parsed.to_json()).as_ref(),
            Ok(&parsed),
            "reads what it writes"
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEMO: &[u8] = include_bytes!("../../engine/assets/demo.mp4");
    const RECORD: &[u8] = &[
        1, 0x42, 0xc0, 0x1e, 0xff, 0xe1, 0, 0x19, 0x67, 0x42, 0xc0, 0x1e, 0xd9, 0, 0xa0, 0x2f,
        0xf9, 0x70, 0x11, 0, 0, 3, 0, 1, 0, 0, 3, 0, 0x3c, 0x0f, 0x16, 0x2e, 0x48, 1, 0, 5, 0x68,
        0xcb, 0x83, 0xcb, 0x20,
    ];
    const CATALOG: &[u8] = br#"{"version":1,"live":true,"tracks":[{"name":"video/360p","kind":"video","codec":"avc1.42c01e","width":640,"height":360,"framerate":29.97,"bitrate":1,"init":"AQID"}]}"#;

    /// Configurations and first samples of ffmpeg's encoders, each behind the byte that chooses its codec.
    const CODECS: [&[u8]; 9] = [
        include_bytes!("../../bench/fuzz/corpus/codecs/hevc_config"),
        include_bytes!("../../bench/fuzz/corpus/codecs/av1_config"),
        include_bytes!("../../bench/fuzz/corpus/codecs/av1_sample"),
        include_bytes!("../../bench/fuzz/corpus/codecs/vp9_config"),
        include_bytes!("../../bench/fuzz/corpus/codecs/vp9_sample"),
        include_bytes!("../../bench/fuzz/corpus/codecs/opus6_config"),
        include_bytes!("../../bench/fuzz/corpus/codecs/flac_config"),
        include_bytes!("../../bench/fuzz/corpus/codecs/ac3_sample"),
        include_bytes!("../../bench/fuzz/corpus/codecs/eac3_sample"),
    ];

    /// Overwrites, and sometimes cuts.
    fn mutate(original: &[u8], edits: &[(usize, u8)], cut: usize) -> Vec<u8> {
        let mut bytes = original.to_vec();
        for (at, value) in edits {
            let at = at % bytes.len();
            bytes[at] = *value;
        }
        bytes.truncate(cut % (2 * bytes.len()));
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn damaged_input_never_panics(edits in prop::collection::vec((any::<usize>(), any::<u8>()), 0..12), cut in any::<usize>(), noise in prop::collection::vec(any::<u8>(), 0..300)) {
            // The header and the first fragment of the demo: every box it has.
            fuzz_fmp4(&mutate(&DEMO[..6000], &edits, cut));
            fuzz_avc_config(&mutate(RECORD, &edits, cut));
            fuzz_aac_config(&mutate(&[0x13, 0x10, 0x56, 0xe5, 0x98], &edits, cut));
            fuzz_catalog(&mutate(CATALOG, &edits, cut));
            for seed in CODECS {
                fuzz_codecs(&mutate(seed, &edits, cut));
            }
            for target in [fuzz_codecs, fuzz_fmp4, fuzz_avc_config, fuzz_aac_config, fuzz_catalog] {
                target(&noise);
            }
        }
    }
}
