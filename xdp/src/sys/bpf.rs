//! The calls of bpf(2), one safe function each: maps with typed keys and values, programs, the link
//! that holds a program on an interface. It owns the attribute layouts of linux/bpf.h; it knows
//! nothing of what a program does.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

use super::checked;

/// One instruction of extended BPF, as the kernel reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    pub(crate) code: u8,
    /// Destination in the low four bits, source in the high four.
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

/// Kinds of map (`enum bpf_map_type`).
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(crate) enum MapKind {
    Hash = 1,
    PerCpuArray = 6,
    LruHash = 9,
    Sockets = 17,
    ReuseportSockets = 20,
}

/// Kinds of program (`enum bpf_prog_type`).
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(crate) enum ProgramKind {
    Xdp = 6,
    SelectReuseport = 21,
}

/// A map whose sizes in the kernel are those of its types here.
#[derive(Debug)]
pub(crate) struct Map<K, V> {
    fd: OwnedFd,
    types: PhantomData<(K, V)>,
}

impl<K: Copy, V: Copy> Map<K, V> {
    /// Creates a map of at most `entries`.
    pub(crate) fn create(kind: MapKind, entries: u32) -> io::Result<Self> {
        #[repr(C)]
        struct Attributes {
            map_type: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
        }
        const BPF_MAP_CREATE: libc::c_long = 0;
        let attributes = Attributes {
            map_type: kind as u32,
            key_size: size_of::<K>() as u32,
            value_size: size_of::<V>() as u32,
            max_entries: entries,
        };
        let fd = bpf(BPF_MAP_CREATE, &attributes).map(owned)?;
        Ok(Self { fd, types: PhantomData })
    }

    /// Puts `value` at `key`, whether something is there or not. Not for maps per processor, whose
    /// values are larger than their type.
    pub(crate) fn put(&self, key: K, value: V) -> io::Result<()> {
        #[repr(C)]
        struct Attributes {
            element: Element,
            flags: u64,
        }
        const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
        let element = Element::new(self.fd.as_fd(), &key, address_of(&value));
        bpf(BPF_MAP_UPDATE_ELEM, &Attributes { element, flags: 0 }).map(drop)
    }

    /// Removes what is at `key`; nothing there is fine.
    pub(crate) fn remove(&self, key: K) -> io::Result<()> {
        const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
        let element = Element::new(self.fd.as_fd(), &key, 0);
        match bpf(BPF_MAP_DELETE_ELEM, &element) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other.map(drop),
        }
    }
}

impl Map<u32, u64> {
    /// The sum over all processors of what is at `key` of a map per processor.
    pub(crate) fn sum(&self, key: u32) -> io::Result<u64> {
        const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
        let mut values = vec![0_u64; possible_processors()?];
        let to = values.as_mut_ptr().expose_provenance() as u64;
        bpf(BPF_MAP_LOOKUP_ELEM, &Element::new(self.fd.as_fd(), &key, to))?;
        Ok(values.iter().sum())
    }
}

impl<K, V> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What the calls on one element of a map begin with.
#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
}

impl Element {
    fn new<K>(map: BorrowedFd<'_>, key: &K, value: u64) -> Self {
        Self { map: map.as_raw_fd() as u32, padding: 0, key: address_of(key), value }
    }
}

/// How many processors the kernel keeps values for: one more than the last that it could ever
/// have, whether present or not.
fn possible_processors() -> io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit([',', '-']).next().and_then(|last| last.parse::<usize>().ok());
    last.map(|last| last + 1).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("possible processors: {text:?}"))
    })
}

/// Loads a program. A refusal carries what the kernel's verifier said last.
pub(crate) fn load(
    kind: ProgramKind,
    name: [u8; 16],
    program: &[Instruction],
) -> io::Result<OwnedFd> {
    /// Bytes for the verifier's explanation, which is asked for only after a refusal.
    const LOG_BYTES: usize = 1 << 20;
    let refused = match load_with_log(kind, name, program, &mut []) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => error,
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => error,
        other => return other,
    };
    let mut log = vec![0; LOG_BYTES];
    if let Ok(fd) = load_with_log(kind, name, program, &mut log) {
        return Ok(fd);
    }
    let text = String::from_utf8_lossy(&log);
    let said: Vec<_> = text.trim_end_matches('\0').lines().rev().take(4).collect();
    let said = said.into_iter().rev().collect::<Vec<_>>().join("; ");
    Err(io::Error::new(refused.kind(), format!("{refused}: {said}")))
}

fn load_with_log(
    kind: ProgramKind,
    name: [u8; 16],
    program: &[Instruction],
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        program_type: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
    }
    const BPF_PROG_LOAD: libc::c_long = 5;
    let license = c"MIT OR Apache-2.0";
    let wanted = !log.is_empty();
    let attributes = Attributes {
        program_type: kind as u32,
        count: program.len() as u32,
        instructions: program.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
        log_level: u32::from(wanted),
        log_size: log.len() as u32,
        log: if wanted { log.as_mut_ptr().expose_provenance() as u64 } else { 0 },
        kernel_version: 0,
        flags: 0,
        name,
    };
    bpf(BPF_PROG_LOAD, &attributes).map(owned)
}

/// Holds an XDP program on an interface until the descriptor is closed (`BPF_LINK_CREATE`, Linux
/// 5.9). `flags` are those of `linux/if_link.h`: 0 lets the kernel choose between driver and generic.
pub(crate) fn link_xdp(program: BorrowedFd<'_>, interface: u32, flags: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        program: u32,
        interface: u32,
        attach_type: u32,
        flags: u32,
    }
    const BPF_LINK_CREATE: libc::c_long = 28;
    const BPF_XDP: u32 = 37;
    let attributes =
        Attributes { program: program.as_raw_fd() as u32, interface, attach_type: BPF_XDP, flags };
    bpf(BPF_LINK_CREATE, &attributes).map(owned)
}

/// Runs a program once on `packet` and returns its verdict (`BPF_PROG_TEST_RUN`).
#[cfg(test)]
pub(crate) fn test_run(program: BorrowedFd<'_>, packet: &[u8]) -> io::Result<u32> {
    #[repr(C)]
    struct Attributes {
        program: u32,
        verdict: u32,
        packet_size: u32,
        out_size: u32,
        packet: u64,
        out: u64,
        repeat: u32,
        duration: u32,
        context_size: u32,
        context_out_size: u32,
        context: u64,
        context_out: u64,
    }
    const BPF_PROG_TEST_RUN: libc::c_long = 10;
    let mut attributes = Attributes {
        program: program.as_raw_fd() as u32,
        verdict: 0,
        packet_size: packet.len() as u32,
        out_size: 0,
        packet: packet.as_ptr().expose_provenance() as u64,
        out: 0,
        repeat: 1,
        duration: 0,
        context_size: 0,
        context_out_size: 0,
        context: 0,
        context_out: 0,
    };
    // SAFETY: the pointer and the size describe `attributes`, into which the kernel writes the
    // verdict; the packet it points to outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_TEST_RUN,
            ptr::from_mut(&mut attributes),
            size_of::<Attributes>(),
        )
    };
    checked(result)?;
    Ok(attributes.verdict)
}

fn address_of<T>(value: &T) -> u64 {
    ptr::from_ref(value).expose_provenance() as u64
}

/// Makes the `bpf(2)` call. `T` is the prefix of the attribute union that `command` reads; the
/// kernel takes what follows as zeros.
fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the pointer and the size describe `attributes`; the addresses within it are those
    // of values that the callers above keep alive over the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_ref(attributes), size_of::<T>()) };
    checked(result)
}

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for the caller, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}
