//! Entry points for fuzzers: each takes any bytes and must neither panic nor hold more than 16 MiB.

use bytes::Bytes;

use crate::{aac, catalog, fmp4, h264, merge};

/// The H.264 decoder configuration record, and the same bytes as an access unit.
pub fn fuzz_avc_config(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(config) = h264::AvcConfig::parse(&bytes) {
        assert!(config.sps.width <= 16_888 && config.sps.height <= 16_888, "sizes are bounded");
        // What parses can be written.
        let _ = crate::cmaf::init::video(1, 90_000, &config);
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
        let _ = crate::cmaf::init::audio(1, &config, data);
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
}

/// The `.catalog` object as a client reads it.
pub fn fuzz_catalog(data: &[u8]) {
    if let Ok(parsed) = catalog::Catalog::parse(data) {
        assert_eq!(
            catalog::Catalog::parse(&parsed.to_json()).as_ref(),
            Ok(&parsed),
            "reads what it writes"
        );
    }
}
