//! The little a feed must know of AAC: whether bytes are an `AudioSpecificConfig` (ISO/IEC 14496-3
//! section 1.6.2.1). Rates, channels and codec strings are the packager's.

/// True when the fixed start of an `AudioSpecificConfig` is there and names a possible rate.
pub(super) fn is_config(config: &[u8]) -> bool {
    let Some(&[high, low]) = config.first_chunk() else { return false };
    let bits = u16::from_be_bytes([high, low]);
    let object_type = bits >> 11;
    if object_type == 31 {
        // Six more bits name the type, and the rate comes later.
        return config.len() >= 3;
    }
    let rate_index = (bits >> 7) & 0x0f;
    // 13 and 14 are reserved; 15 says that 24 bits of rate follow.
    object_type != 0 && (rate_index < 13 || (rate_index == 15 && config.len() >= 5))
}
