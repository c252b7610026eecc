//! CMAF bytes (ISO/IEC 23000-19): the header of a track and its chunks. Owns the box layout, knows nothing of time lines
//! or groups.

pub(crate) mod chunk;
pub(crate) mod entry;
pub(crate) mod init;

/// Sample flags of ISO/IEC 14496-12 §8.8.3.1: depends on no other sample.
pub(crate) const FLAGS_SYNC: u32 = 0x0200_0000;
/// Depends on others and is not a sync sample.
pub(crate) const FLAGS_DEPENDENT: u32 = 0x0101_0000;
/// The bit of the flags that says "not a sync sample".
pub(crate) const FLAG_NON_SYNC: u32 = 0x0001_0000;
