//! The memory that frames are in, cut into chunks of one size, and who has each: we or the kernel.
//! A [`UmemFrame`] is the right to touch one chunk; it is made nowhere else and cannot be copied.

#![expect(unsafe_code, reason = "the frames that are ours are looked at through the mapping")]

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use crate::sys::{memory::LentBytes, passing::shared_memory};

/// Bytes of a chunk: one page, the most that aligned chunks may have. Some drivers take 256 bytes
/// of it for themselves and round what remains down to whole KiB, and 3 KiB still hold MTU 1,500.
pub(super) const CHUNK_BYTES: u32 = 4_096;

/// A chunk that is ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UmemFrame(u32);

/// All chunks of a port.
#[derive(Debug)]
pub(super) struct Umem {
    bytes: LentBytes,
    /// What it is mapped from, where another process makes it known to the kernel.
    shared: Option<OwnedFd>,
    free: Vec<UmemFrame>,
    /// Whether the kernel has it, by chunk.
    lent: Vec<bool>,
}

impl Umem {
    pub(super) fn new(chunks: u32) -> io::Result<Self> {
        let bytes = LentBytes::zeros(chunks as usize * CHUNK_BYTES as usize)?;
        Ok(Self::over(bytes, None, chunks))
    }

    /// The same in memory that another process can map.
    pub(super) fn shared(chunks: u32) -> io::Result<Self> {
        let bytes = chunks as usize * CHUNK_BYTES as usize;
        let memory = shared_memory(bytes)?;
        Ok(Self::over(LentBytes::of(memory.as_fd(), bytes)?, Some(memory), chunks))
    }

    fn over(bytes: LentBytes, shared: Option<OwnedFd>, chunks: u32) -> Self {
        let free = (0..chunks).rev().map(UmemFrame).collect();
        Self { bytes, shared, free, lent: vec![false; chunks as usize] }
    }

    /// What it is mapped from, if it is shared.
    pub(super) fn memory(&self) -> Option<BorrowedFd<'_>> {
        self.shared.as_ref().map(OwnedFd::as_fd)
    }

    pub(super) fn area(&self) -> &LentBytes {
        &self.bytes
    }

    /// Takes a chunk that nobody uses.
    pub(super) fn take(&mut self) -> Option<UmemFrame> {
        self.free.pop()
    }

    /// Puts a chunk back among those that nobody uses.
    pub(super) fn give_back(&mut self, frame: UmemFrame) {
        self.free.push(frame);
    }

    /// Hands a chunk to the kernel and returns its address there.
    #[expect(clippy::needless_pass_by_value, reason = "the right to touch the chunk ends here")]
    pub(super) fn lend(&mut self, frame: UmemFrame) -> u64 {
        let UmemFrame(chunk) = frame;
        self.lent[chunk as usize] = true;
        u64::from(chunk) * u64::from(CHUNK_BYTES)
    }

    /// Takes back what the kernel says it is done with, at any address within the chunk. Nothing if
    /// the kernel never had it, so that no chunk can become ours twice.
    pub(super) fn reclaim(&mut self, address: u64) -> Option<UmemFrame> {
        let chunk = address / u64::from(CHUNK_BYTES);
        let lent = self.lent.get_mut(usize::try_from(chunk).ok()?)?;
        std::mem::take(lent).then_some(UmemFrame(chunk as u32))
    }

    /// `bytes` of a chunk of ours that begin at the kernel's `address`; nothing if they are not
    /// all in it.
    pub(super) fn read(&self, frame: &UmemFrame, address: u64, bytes: u32) -> Option<&[u8]> {
        let start = u64::from(frame.0) * u64::from(CHUNK_BYTES);
        let within = address.checked_sub(start)?;
        if within + u64::from(bytes) > u64::from(CHUNK_BYTES) {
            return None;
        }
        // SAFETY: a `UmemFrame` exists only while its chunk is not lent, and the range is in it.
        unsafe { self.bytes.get(address as usize, bytes as usize) }
    }

    /// A chunk of ours, to be written.
    pub(super) fn write(&mut self, frame: &mut UmemFrame) -> &mut [u8] {
        let start = frame.0 as usize * CHUNK_BYTES as usize;
        // SAFETY: a `UmemFrame` exists only while its chunk is not lent, and we borrow it alone.
        let chunk = unsafe { self.bytes.get_mut(start, CHUNK_BYTES as usize) };
        chunk.expect("chunks lie within the memory")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_is_ours_or_the_kernels_and_never_twice_ours() {
        let mut umem = Umem::new(2).expect("memory");
        let mut frame = umem.take().expect("two chunks");
        umem.write(&mut frame)[..3].copy_from_slice(b"abc");
        let address = umem.lend(frame);
        let frame = umem.reclaim(address + 256).expect("the kernel had it");
        assert_eq!(umem.reclaim(address), None, "the kernel gives it back once");
        assert_eq!(umem.read(&frame, address, 3), Some(&b"abc"[..]));
        umem.give_back(frame);
        let both = [umem.take(), umem.take()];
        assert!(both.iter().all(Option::is_some) && umem.take().is_none());
    }

    #[test]
    fn addresses_outside_are_refused() {
        let mut umem = Umem::new(2).expect("memory");
        let frame = umem.take().expect("two chunks");
        for address in [2 * u64::from(CHUNK_BYTES), u64::MAX] {
            assert_eq!(umem.reclaim(address), None, "{address}");
        }
        let start = 0;
        assert_eq!(umem.read(&frame, start, CHUNK_BYTES).map(<[u8]>::len), Some(4_096));
        assert_eq!(umem.read(&frame, start + 1, CHUNK_BYTES), None);
        assert_eq!(umem.read(&frame, u64::from(CHUNK_BYTES), 1), None, "of another chunk");
        let other = umem.take().expect("two chunks");
        assert_eq!(umem.read(&other, start, 1), None, "of another chunk");
    }
}
