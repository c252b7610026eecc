//! Whose a datagram is, by its first bytes: STUN carries the user name, of which our half names the
//! session and its shard (RFC 8445 §7.3); DTLS and SRTP are told by where they come from (RFC 7983).
//! It checks no integrity: the session does.

/// Length of our user fragment: 4 digits for the shard, 16 that nobody can guess.
pub const UFRAG_LENGTH: usize = 20;

const HEADER: usize = 20;
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const USERNAME: u16 = 0x0006;

/// What a datagram is (RFC 7983 §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// STUN with a user name: our user fragment in it.
    Stun(&'a str),
    /// DTLS, SRTP or SRTCP.
    Media,
    /// None of these.
    Stray,
}

/// Looks at a datagram.
pub fn kind(datagram: &[u8]) -> Kind<'_> {
    match datagram.first() {
        Some(0..=3) => user_fragment(datagram).map_or(Kind::Stray, Kind::Stun),
        Some(20..=63 | 128..=191) => Kind::Media,
        _ => Kind::Stray,
    }
}

/// The shard that a user fragment of ours names.
pub fn shard(ufrag: &str) -> Option<u16> {
    (ufrag.len() == UFRAG_LENGTH)
        .then(|| ufrag.get(..4))
        .flatten()
        .and_then(|digits| u16::from_str_radix(digits, 16).ok())
}

/// A user fragment for a session of `shard`.
pub fn ufrag(shard: u16, random: [u8; 8]) -> String {
    format!("{shard:04x}{:016x}", u64::from_be_bytes(random))
}

/// The part before the colon of `USERNAME` in a binding request: whom it is for.
fn user_fragment(datagram: &[u8]) -> Option<&str> {
    let header = datagram.first_chunk::<HEADER>()?;
    let [_, _, length_high, length_low, cookie @ ..] = header;
    let length = usize::from(u16::from_be_bytes([*length_high, *length_low]));
    if cookie.first_chunk() != Some(&MAGIC_COOKIE) {
        return None;
    }
    let mut rest = datagram.get(HEADER..HEADER + length)?;
    while let Some((head, tail)) = rest.split_first_chunk::<4>() {
        let [kind_high, kind_low, length_high, length_low] = *head;
        let length = usize::from(u16::from_be_bytes([length_high, length_low]));
        let value = tail.get(..length)?;
        if u16::from_be_bytes([kind_high, kind_low]) == USERNAME {
            let (ours, _) = std::str::from_utf8(value).ok()?.split_once(':')?;
            return Some(ours);
        }
        // Attributes are padded to four bytes (RFC 8489 §14).
        rest = tail.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, value) in attributes {
            body.extend_from_slice(&kind.to_be_bytes());
            body.extend_from_slice(&(value.len() as u16).to_be_bytes());
            body.extend_from_slice(value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut datagram = vec![0, 1];
        datagram.extend_from_slice(&(body.len() as u16).to_be_bytes());
        datagram.extend_from_slice(&MAGIC_COOKIE);
        datagram.extend_from_slice(&[7; 12]);
        datagram.extend_from_slice(&body);
        datagram
    }

    #[test]
    fn a_binding_request_names_its_session_and_shard() {
        let ours = ufrag(9, [1; 8]);
        let name = format!("{ours}:theirs");
        let datagram = request(&[(0x0024, &[0; 4]), (0x8022, b"abc"), (USERNAME, name.as_bytes())]);
        assert_eq!(kind(&datagram), Kind::Stun(&ours));
        assert_eq!(shard(&ours), Some(9));
    }

    #[test]
    fn what_is_cut_or_foreign_names_nobody() {
        let whole = request(&[(USERNAME, b"00090000000000000000:x")]);
        for length in 0..whole.len() {
            assert_eq!(kind(&whole[..length]), Kind::Stray, "{length}");
        }
        assert_eq!(kind(&request(&[(USERNAME, b"no colon")])), Kind::Stray);
        assert_eq!(kind(&request(&[])), Kind::Stray);
        assert_eq!(kind(&[22, 254, 253]), Kind::Media);
        assert_eq!(kind(&[0x80, 111]), Kind::Media);
        assert_eq!(kind(&[70, 0]), Kind::Stray);
        for foreign in ["", "abcd", "zzzz0000000000000000", "é0000000000000000000"] {
            assert_eq!(shard(foreign), None, "{foreign}");
        }
    }
}
