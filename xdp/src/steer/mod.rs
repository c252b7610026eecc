//! Steering: which shard a datagram belongs to, said by one byte of its connection id. It owns the
//! rule, in Rust and as two BPF programs that the kernel runs for a group of sockets; it knows no
//! connections, so it can neither be out of date nor be filled up.
//!
//! The byte is the first of the destination connection id: byte 6 of a long header, byte 1 of a
//! short one (RFC 9000 section 17). A server makes its ids with [`cid_first_byte`]. A client's
//! first Initial carries random bytes; the shard they name owns the connection from then on, and
//! retransmitted Initials and 0-RTT carry the same bytes. So a connection stays on its shard over
//! any change of address, without a table and without a case for Initials.
//!
//! Between byte and shard stands a keyed permutation of the 256 bytes, so that outsiders cannot
//! tell which ids name which shard, while every shard still gets its equal share of random ids.
//!
//! Two things bring a datagram to another shard than its id names. The kernel may coalesce datagrams of
//! several connections from one client socket into one train before it selects, and the first of them
//! decides. And a network card that has a queue for each shard chooses by addresses and knows no
//! ids: there the shard whose queue an Initial came by owns the connection, and a datagram comes by
//! another queue only after a change of address, or if it answers what we dialled. So a shard that gets a
//! short header with [`shard_of`] of another hands it over, and a long one with [`issuer_of`] another:
//! the last bytes of an id show that one of our shards made it, which no client's first id does.

mod classic;
pub(crate) mod extended;
mod interpret;

use std::{
    hash::{DefaultHasher, Hasher},
    io,
    os::fd::{AsFd, AsRawFd},
};

use crate::{
    keeper,
    sys::{
        self,
        bpf::{self, Map, MapKind, ProgramKind},
    },
};

/// Most shards that one group can have: each then still owns two values of the byte.
pub const SHARDS_MAX: u16 = 128;

/// Which permutation stands between a byte and its shard. The same on every shard of a process;
/// a new one may be drawn at each start, because connections end with the process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key {
    mask: u8,
    /// Odd, so that multiplying modulo 256 can be undone.
    first: u8,
    second: u8,
    /// What the seals of ids depend on.
    secret: u64,
}

/// Bytes of the ids that we make: one that names the shard, four of chance, three of seal.
pub const ID_BYTES: usize = 8;
const SEALED_BYTES: usize = 5;

impl Key {
    /// A key from random bits; 22 of them count for the permutation, all for the seals.
    pub fn new(random: u64) -> Self {
        let [mask, first, second, ..] = random.to_le_bytes();
        Self { mask, first: first | 1, second: second | 1, secret: random }
    }

    /// The seal of an id. Who forges one has a datagram of his handed from one shard to another, and
    /// nothing else: 24 bits are enough, and one strange id in 16 million passes for ours.
    fn seal(self, sealed: [u8; SEALED_BYTES]) -> [u8; ID_BYTES - SEALED_BYTES] {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.secret);
        hasher.write(&sealed);
        let [a, b, c, ..] = hasher.finish().to_le_bytes();
        [a, b, c]
    }

    /// Those 22 bits, for the process that attaches the selector.
    pub(crate) fn bytes(self) -> [u8; 3] {
        [self.mask, self.first, self.second]
    }

    /// A key from [`Key::bytes`]: it names shards, and its seals are nobody's.
    pub(crate) fn from_bytes([mask, first, second]: [u8; 3]) -> Self {
        Self { mask, first: first | 1, second: second | 1, secret: 0 }
    }

    /// Mixes a byte. Each step can be undone, so all 256 results occur. Folding the high half onto
    /// the low one after each product matters: the low bits of a product depend on the low bits of
    /// its factors alone, and it is the low bits that choose among 2, 4 or 8 shards.
    fn mix(self, byte: u8) -> u8 {
        let mixed = fold((byte ^ self.mask).wrapping_mul(self.first));
        fold(mixed.wrapping_mul(self.second))
    }

    /// Undoes [`Key::mix`].
    fn unmix(self, mixed: u8) -> u8 {
        let byte = fold(mixed).wrapping_mul(inverse(self.second));
        fold(byte).wrapping_mul(inverse(self.first)) ^ self.mask
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Key(..)")
    }
}

/// Its own inverse, because the high half stays as it is.
fn fold(byte: u8) -> u8 {
    byte ^ byte >> 4
}

/// The inverse of an odd number modulo 256. An odd number is its own inverse modulo 8, and each
/// step of Newton's doubles the bits that are right: 3, 6, 12.
fn inverse(odd: u8) -> u8 {
    let refine = |guess: u8| guess.wrapping_mul(2_u8.wrapping_sub(odd.wrapping_mul(guess)));
    refine(refine(odd))
}

/// The shard that a datagram names, out of `n`; nothing if it is too short to name one, in which
/// case the kernel spreads by address.
pub fn shard_of(datagram: &[u8], n: u16, key: Key) -> Option<u16> {
    debug_assert!((1..=SHARDS_MAX).contains(&n), "{n} shards");
    let at = if datagram.first()? & LONG_HEADER == 0 { SHORT_ID_AT } else { LONG_ID_AT };
    let byte = *datagram.get(at)?;
    u16::from(key.mix(byte)).checked_rem(n)
}

/// A first byte for a connection id of `shard` out of `n`: one of the values that name it, picked
/// by a random byte.
pub fn cid_first_byte(shard: u16, n: u16, key: Key, random: u8) -> u8 {
    assert!(n <= SHARDS_MAX && shard < n, "shard {shard} of {n}, at most {SHARDS_MAX}");
    let choices = (256 - shard).div_ceil(n);
    key.unmix((shard + n * (u16::from(random) % choices)) as u8)
}

/// A connection id of `shard` out of `n` from random bytes.
pub fn id(shard: u16, n: u16, key: Key, random: [u8; ID_BYTES]) -> [u8; ID_BYTES] {
    let mut id = random;
    id[0] = cid_first_byte(shard, n, key, random[0]);
    if let Some((sealed, seal)) = id.split_first_chunk_mut::<SEALED_BYTES>() {
        seal.copy_from_slice(&key.seal(*sealed));
    }
    id
}

/// The shard that made the destination id of a long header (RFC 8999 section 5.1), out of `n`; nothing if the id
/// is none of ours, as that of a client's first Initials.
pub fn issuer_of(datagram: &[u8], n: u16, key: Key) -> Option<u16> {
    const ID_LENGTH_AT: usize = LONG_ID_AT - 1;
    let is_long = datagram.first()? & LONG_HEADER != 0;
    if !is_long || usize::from(*datagram.get(ID_LENGTH_AT)?) != ID_BYTES {
        return None;
    }
    let id = datagram.get(LONG_ID_AT..)?.first_chunk::<ID_BYTES>()?;
    let (sealed, seal) = id.split_first_chunk::<SEALED_BYTES>()?;
    if key.seal(*sealed) == seal { shard_of(datagram, n, key) } else { None }
}

/// Which program selects the socket of a group.
#[derive(Debug)]
pub enum Selector {
    /// Nothing to select from: the group has one socket.
    Single,
    /// Extended BPF over a map of sockets. The order of the group is frozen in the map.
    Extended,
    /// Classic BPF, for want of a privilege. It selects by position in the group, and the kernel
    /// moves the last socket into the place of one that is closed: close all or none.
    Classic {
        /// Why extended BPF was refused.
        refused: io::Error,
    },
}

/// Makes the kernel bring each datagram to the socket of its shard: socket `i` of the group is
/// shard `i`. The sockets are those of [`crate::udp::bind_group`], all of them and in that order.
/// Tries extended BPF first. On an error no program is attached and the kernel spreads by
/// address, which loses connections that migrate.
pub fn attach<S: AsFd>(group: &[S], key: Key) -> io::Result<Selector> {
    let n = u16::try_from(group.len()).ok().filter(|n| *n <= SHARDS_MAX).ok_or_else(|| {
        let text = format!("{} sockets in a group; at most {SHARDS_MAX}", group.len());
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })?;
    if n < 2 {
        return Ok(Selector::Single);
    }
    let extended = match keeper::current() {
        Some(keeper) => keeper.steer(&group.iter().map(AsFd::as_fd).collect::<Vec<_>>(), key),
        None => attach_extended(group, n, key),
    };
    match extended {
        Ok(()) => Ok(Selector::Extended),
        Err(refused) => {
            attach_classic(group, n, key)?;
            Ok(Selector::Classic { refused })
        }
    }
}

/// Makes the kernel bring each datagram to the socket of the group whose number is the byte at offset
/// `at` of the payload. Datagrams that are shorter, or name no socket, are spread by address. Needs no
/// privilege; the kernel moves the last socket into the place of one that is closed: close all or none.
pub fn attach_by_byte<S: AsFd>(group: &[S], at: u32) -> io::Result<()> {
    match group {
        [] | [_] => Ok(()),
        [first, ..] => sys::attach_classic(first.as_fd(), &classic::by_byte(at)),
    }
}

pub(crate) fn attach_extended<S: AsFd>(group: &[S], n: u16, key: Key) -> io::Result<()> {
    let map: Map<u32, u64> = Map::create(MapKind::ReuseportSockets, u32::from(n))?;
    for (index, socket) in (0_u32..).zip(group) {
        map.put(index, socket.as_fd().as_raw_fd() as u64)?;
    }
    let program = extended::program(map.as_fd(), n, key);
    let program = bpf::load(ProgramKind::SelectReuseport, *b"weir_steer\0\0\0\0\0\0", &program)?;
    // The group keeps the program and the program its map, so both descriptors may close.
    sys::attach_selector(group[0].as_fd(), program.as_fd())
}

fn attach_classic<S: AsFd>(group: &[S], n: u16, key: Key) -> io::Result<()> {
    sys::attach_classic(group[0].as_fd(), &classic::program(n, key))
}

/// Set in the first byte of a long header (RFC 9000 section 17.2).
pub(crate) const LONG_HEADER: u8 = 0x80;
/// Where the destination connection id starts in a short header, after the flags.
pub(crate) const SHORT_ID_AT: usize = 1;
/// Where it starts in a long header, after the flags, the version and its own length.
pub(crate) const LONG_ID_AT: usize = 6;

/// Runs one input through the rule and through both BPF programs, which must agree, and through
/// the making of an id. For the fuzzer; panics where something differs.
pub fn fuzz_steer(input: &[u8]) {
    let Some((seed, datagram)) = input.split_first_chunk::<5>() else { return };
    let [a, b, c, n, random] = *seed;
    let key = Key::new(u64::from_le_bytes([a, b, c, 0, 0, 0, 0, 0]));
    let n = u16::from(n) % SHARDS_MAX + 1;
    let shard = shard_of(datagram, n, key);
    assert_eq!(interpret::classic(&classic::program(n, key), datagram), shard, "classic");
    let program = extended::program_with_map(0, n, key);
    assert_eq!(interpret::extended(&program, datagram), shard, "extended");
    if let Some(shard) = shard {
        assert!(shard < n, "shard {shard} of {n}");
        let id = cid_first_byte(shard, n, key, random);
        assert_eq!(shard_of(&[0x40, id], n, key), Some(shard), "short header");
        assert_eq!(shard_of(&[0xc0, 0, 0, 0, 1, 8, id], n, key), Some(shard), "long header");
        let long = [&[0xc0, 0, 0, 0, 1, 8][..], &self::id(shard, n, key, [random; 8])].concat();
        assert_eq!(issuer_of(&long, n, key), Some(shard), "an id of ours");
    }
    let issuer = issuer_of(datagram, n, key);
    assert!(issuer.is_none() || issuer == shard, "issued by {issuer:?}");
}

#[cfg(test)]
mod tests;
