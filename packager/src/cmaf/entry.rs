//! Sample entries: the fixed fields of ISO/IEC 14496-12 §12.1.3 and §12.2.3 around the configuration box of a codec, whose
//! bytes go in as the publisher sent them.

/// A visual sample entry with one configuration box.
pub(crate) fn video(
    kind: [u8; 4],
    width: u32,
    height: u32,
    config: [u8; 4],
    body: &[&[u8]],
) -> Vec<u8> {
    let side = |side: u32| u16::try_from(side).unwrap_or(u16::MAX).to_be_bytes();
    let fixed: [&[u8]; 6] = [
        &[0, 0, 0, 0, 0, 0, 0, 1], // data_reference_index
        &[0; 16],
        &side(width),
        &side(height),
        // 72 dpi twice, reserved, one frame a sample.
        &[0, 0x48, 0, 0, 0, 0x48, 0, 0, 0, 0, 0, 0, 0, 1],
        &[0; 32], // compressor name
    ];
    let depth: &[u8] = &[0, 0x18, 0xff, 0xff];
    boxed(kind, &[&fixed.concat(), depth, &boxed(config, body)])
}

/// An audio sample entry with one configuration box.
pub(crate) fn audio(
    kind: [u8; 4],
    channels: u16,
    bit_depth: u16,
    sample_rate: u32,
    config: [u8; 4],
    body: &[&[u8]],
) -> Vec<u8> {
    // 16 bits is all there is; above, players go by the timescale.
    let rate = u16::try_from(sample_rate).unwrap_or(0).to_be_bytes();
    let fixed: [&[u8]; 7] = [
        &[0, 0, 0, 0, 0, 0, 0, 1], // data_reference_index
        &[0; 8],
        &channels.to_be_bytes(),
        &bit_depth.to_be_bytes(),
        &[0; 4],
        &rate,
        &[0; 2],
    ];
    boxed(kind, &[&fixed.concat(), &boxed(config, body)])
}

/// `mp4a` with an `esds` around the `AudioSpecificConfig` (ISO/IEC 14496-1 §7.2.6).
pub(crate) fn aac(channels: u16, sample_rate: u32, specific: &[u8]) -> Vec<u8> {
    let descriptor = |tag: u8, body: &[u8]| {
        // Sizes in four bytes, which every reader takes whatever they are.
        let size = body.len() as u32;
        let septet = |shift: u32| (size >> shift & 0x7f) as u8;
        [&[tag, 0x80 | septet(21), 0x80 | septet(14), 0x80 | septet(7), septet(0)], body].concat()
    };
    let decoder_specific = descriptor(5, specific);
    // ISO/IEC 14496-3 audio, an audio stream; buffer size and bit rates are not stated.
    let decoder = [&[0x40, 0x15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &decoder_specific[..]].concat();
    let stream = [&[0, 0, 0][..], &descriptor(4, &decoder), &descriptor(6, &[2])].concat();
    audio(*b"mp4a", channels, 16, sample_rate, *b"esds", &[&[0; 4], &descriptor(3, &stream)])
}

/// A box of these parts.
pub(crate) fn boxed(kind: [u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let size = 8 + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut out = Vec::with_capacity(size);
    out.extend((size as u32).to_be_bytes());
    out.extend(kind);
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}
