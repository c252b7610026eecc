//! Memory that the kernel writes to while we look: what is mapped, and the two ways to look at it.
//! Rings are words that both sides change, so they are atomics; the umem is bytes that belong to
//! one side at a time. It owns the mappings; whose turn it is, its users know.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, AtomicU64},
};

use super::checked;

#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread, and nothing else has the pointer.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(fd: Option<BorrowedFd<'_>>, offset: i64, bytes: usize) -> io::Result<Self> {
        let sharing = match fd {
            Some(_) => libc::MAP_SHARED,
            None => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        };
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                sharing | libc::MAP_POPULATE,
                fd.map_or(-1, |fd| fd.as_raw_fd()),
                offset,
            )
        };
        checked(start.expose_provenance() as isize)?;
        let start = NonNull::new(start.cast()).expect("mmap(2) chooses no address 0");
        Ok(Self { start, bytes })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, is unmapped once, and no reference into it outlives it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// Words that the kernel and we change.
#[derive(Debug)]
pub(crate) struct SharedWords(Mapping);

// SAFETY: through a shared reference the words are reached as atomics alone.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps what `fd` offers at `offset`.
    pub(crate) fn of(fd: BorrowedFd<'_>, offset: i64, bytes: usize) -> io::Result<Self> {
        Mapping::new(Some(fd), offset, bytes).map(Self)
    }

    /// Zeros of our own, to be shown to a kernel.
    pub(crate) fn zeros(bytes: usize) -> io::Result<Self> {
        Mapping::new(None, 0, bytes).map(Self)
    }

    /// Where they are.
    pub(crate) fn address(&self) -> u64 {
        self.0.start.as_ptr().expose_provenance() as u64
    }

    /// The word of 32 bits at `offset`.
    pub(crate) fn word(&self, offset: usize) -> &AtomicU32 {
        let at = self.at(offset, size_of::<AtomicU32>());
        // SAFETY: `at` is aligned and within the mapping, which lives as long as the reference and
        // is only ever looked at as atomics.
        unsafe { AtomicU32::from_ptr(at.as_ptr().cast()) }
    }

    /// The word of 64 bits at `offset`.
    pub(crate) fn double(&self, offset: usize) -> &AtomicU64 {
        let at = self.at(offset, size_of::<AtomicU64>());
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(at.as_ptr().cast()) }
    }

    fn at(&self, offset: usize, size: usize) -> NonNull<u8> {
        let within = offset.checked_add(size).is_some_and(|end| end <= self.0.bytes);
        assert!(within && offset.is_multiple_of(size), "offset {offset} of {:?}", self.0);
        // SAFETY: just checked to lie within the mapping.
        unsafe { self.0.start.add(offset) }
    }
}

/// Bytes that belong to the kernel or to us, range by range.
#[derive(Debug)]
pub(crate) struct LentBytes(Mapping);

impl LentBytes {
    /// Maps memory that another process may map too.
    pub(crate) fn of(memory: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        Mapping::new(Some(memory), 0, bytes).map(Self)
    }

    pub(crate) fn zeros(bytes: usize) -> io::Result<Self> {
        Mapping::new(None, 0, bytes).map(Self)
    }

    pub(crate) fn address(&self) -> u64 {
        self.0.start.as_ptr().expose_provenance() as u64
    }

    pub(crate) fn len(&self) -> usize {
        self.0.bytes
    }

    /// The bytes of a range, nothing if it reaches beyond the end.
    ///
    /// # Safety
    /// The range is not lent to the kernel while the slice lives.
    pub(crate) unsafe fn get(&self, offset: usize, bytes: usize) -> Option<&[u8]> {
        let start = self.start_of(offset, bytes)?;
        // SAFETY: the range is within the mapping, initialised as zeros, borrowed from `self`, and
        // the caller says that nobody writes to it.
        Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes) })
    }

    /// The same for writing.
    ///
    /// # Safety
    /// The range is not lent to the kernel while the slice lives.
    pub(crate) unsafe fn get_mut(&mut self, offset: usize, bytes: usize) -> Option<&mut [u8]> {
        let start = self.start_of(offset, bytes)?;
        // SAFETY: as above, and `self` is borrowed for us alone.
        Some(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), bytes) })
    }

    fn start_of(&self, offset: usize, bytes: usize) -> Option<NonNull<u8>> {
        offset.checked_add(bytes).filter(|end| *end <= self.0.bytes)?;
        // SAFETY: just checked to lie within the mapping.
        Some(unsafe { self.0.start.add(offset) })
    }
}
