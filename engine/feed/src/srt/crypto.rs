//! Encryption of SRT payloads (draft-sharabayko-srt §6): key material unwrapped with a key made of the passphrase, packets
//! deciphered with AES in counter mode. All primitives are aws-lc's; RFC 3394 is built here on its block cipher, because
//! it wraps no keys of 192 bits.

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm, DecryptingKey, DecryptionContext, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::pbkdf2;

use super::packet::{KeyParity, Seq};
use crate::Secret;

/// Rounds of key derivation (§6.1.4).
const ROUNDS: NonZeroU32 = NonZeroU32::new(2048).expect("not zero");

/// Bytes of salt, and of the part of it that derives keys.
const SALT_BYTES: usize = 16;
const SALT_TAIL_BYTES: usize = 8;

/// Bytes of the check value in front of wrapped keys (RFC 3394 §2.2.3.1).
const CHECK: [u8; 8] = [0xa6; 8];

/// Bytes of key material before the salt.
const HEAD_BYTES: usize = 16;

/// Why key material is not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum KeyFault {
    /// It does not open with this passphrase.
    BadSecret,
    /// It is not laid out as §3.2.2 says, or asks for a cipher we do not have.
    Malformed,
}

/// Keys of one connection.
pub(super) struct Keys {
    passphrase: Secret,
    /// Derived from the passphrase and this salt; derivation takes a millisecond.
    derived: Option<([u8; SALT_BYTES], Vec<u8>)>,
    even: Option<Key>,
    odd: Option<Key>,
}

struct Key {
    cipher: DecryptingKey,
    salt: [u8; SALT_BYTES],
}

impl Keys {
    pub(super) fn new(passphrase: Secret) -> Self {
        Self { passphrase, derived: None, even: None, odd: None }
    }

    /// Takes in key material (§3.2.2); those of the other parity stay.
    pub(super) fn handle_material(&mut self, material: &[u8]) -> Result<(), KeyFault> {
        let message = Material::read(material).ok_or(KeyFault::Malformed)?;
        let algorithm = message.algorithm();
        let fresh = !matches!(&self.derived, Some((salt, key)) if *salt == message.salt && key.len() == message.key_bytes);
        if fresh {
            let mut key = vec![0; message.key_bytes];
            let salt = message.salt.last_chunk::<SALT_TAIL_BYTES>().expect("16 bytes hold 8");
            let passphrase = self.passphrase.expose().as_bytes();
            pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA1, ROUNDS, salt, passphrase, &mut key);
            self.derived = Some((message.salt, key));
        }
        let Some((_, wrapping)) = &self.derived else { return Err(KeyFault::Malformed) };
        let opened = unwrap(algorithm, wrapping, message.wrapped).ok_or(KeyFault::BadSecret)?;
        let key = |bytes: &[u8]| {
            let unbound = UnboundCipherKey::new(algorithm, bytes).ok()?;
            Some(Key { cipher: DecryptingKey::ctr(unbound).ok()?, salt: message.salt })
        };
        let (first, second) =
            opened.split_at_checked(message.key_bytes).ok_or(KeyFault::Malformed)?;
        match message.parity {
            KeyParity::Even => self.even = key(first),
            KeyParity::Odd => self.odd = key(first),
            KeyParity::Both => (self.even, self.odd) = (key(first), key(second)),
            KeyParity::Clear => return Err(KeyFault::Malformed),
        }
        Ok(())
    }

    /// Deciphers in place; false if there is no such key.
    pub(super) fn decipher(&self, parity: KeyParity, seq: Seq, payload: &mut [u8]) -> bool {
        let key = match parity {
            KeyParity::Even => &self.even,
            KeyParity::Odd => &self.odd,
            KeyParity::Clear | KeyParity::Both => return false,
        };
        let Some(key) = key else { return false };
        // §6.2.2: the sequence number over the salt, the last 16 bits count blocks.
        let mut counter = key.salt;
        let number = seq.number().to_be_bytes();
        for (byte, part) in counter.iter_mut().skip(10).zip(number) {
            *byte ^= part;
        }
        for byte in counter.iter_mut().skip(14) {
            *byte = 0;
        }
        let context = DecryptionContext::Iv128(FixedLength::from(counter));
        key.cipher.decrypt(payload, context).is_ok()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("even", &self.even.is_some())
            .field("odd", &self.odd.is_some())
            .finish_non_exhaustive()
    }
}

struct Material<'a> {
    parity: KeyParity,
    salt: [u8; SALT_BYTES],
    key_bytes: usize,
    wrapped: &'a [u8],
}

impl<'a> Material<'a> {
    fn read(material: &'a [u8]) -> Option<Self> {
        let (head, rest) = material.split_first_chunk::<HEAD_BYTES>()?;
        let [
            kind,
            sign_high,
            sign_low,
            flags,
            _,
            _,
            _,
            _,
            cipher,
            auth,
            _,
            _,
            _,
            _,
            salt_words,
            key_words,
        ] = *head;
        let parity = match flags & 3 {
            1 => KeyParity::Even,
            2 => KeyParity::Odd,
            3 => KeyParity::Both,
            _ => return None,
        };
        // Version 1, packet type 2, the sign; AES in counter mode, no authentication.
        let known = (kind, sign_high, sign_low, cipher, auth) == (0x12, 0x20, 0x29, 2, 0);
        let key_bytes = usize::from(key_words) * 4;
        if !known || usize::from(salt_words) * 4 != SALT_BYTES || !matches!(key_bytes, 16 | 24 | 32)
        {
            return None;
        }
        let (salt, wrapped) = rest.split_first_chunk::<SALT_BYTES>()?;
        let keys = if parity == KeyParity::Both { 2 } else { 1 };
        let wrapped = wrapped.get(..CHECK.len() + keys * key_bytes)?;
        Some(Self { parity, salt: *salt, key_bytes, wrapped })
    }

    fn algorithm(&self) -> &'static Algorithm {
        match self.key_bytes {
            16 => &AES_128,
            24 => &AES_192,
            _ => &AES_256,
        }
    }
}

/// Opens wrapped keys (RFC 3394 §2.2.2); none if the check value is not there.
fn unwrap(algorithm: &'static Algorithm, key: &[u8], wrapped: &[u8]) -> Option<Vec<u8>> {
    let cipher = DecryptingKey::ecb(UnboundCipherKey::new(algorithm, key).ok()?).ok()?;
    let (check, rest) = wrapped.split_first_chunk::<8>()?;
    let mut check = u64::from_be_bytes(*check);
    let mut parts: Vec<[u8; 8]> =
        rest.chunks_exact(8).filter_map(|part| part.first_chunk().copied()).collect();
    let count = parts.len() as u64;
    for round in (0..6).rev() {
        for (at, part) in parts.iter_mut().enumerate().rev() {
            let step = count * round + at as u64 + 1;
            let mut block = [0; 16];
            for (to, from) in
                block.iter_mut().zip((check ^ step).to_be_bytes().iter().chain(&*part))
            {
                *to = *from;
            }
            cipher.decrypt(&mut block, DecryptionContext::None).ok()?;
            let (head, tail) = block.split_first_chunk::<8>()?;
            check = u64::from_be_bytes(*head);
            *part = *tail.first_chunk()?;
        }
    }
    (check.to_be_bytes() == CHECK).then(|| parts.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(|digit| *digit != b' ').collect();
        let digit = |at: usize| char::from(digits[at]).to_digit(16).expect("hex") as u8;
        (0..digits.len() / 2).map(|at| digit(2 * at) << 4 | digit(2 * at + 1)).collect()
    }

    #[test]
    fn the_vectors_of_rfc_3394_unwrap() {
        let data = bytes("00112233445566778899AABBCCDDEEFF");
        let cases = [
            (
                &AES_128,
                "000102030405060708090A0B0C0D0E0F",
                "1FA68B0A8112B447 AEF34BD8FB5A7B82 9D3E862371D2CFE5",
            ),
            (
                &AES_192,
                "000102030405060708090A0B0C0D0E0F1011121314151617",
                "96778B25AE6CA435 F92B5B97C050AED2 468AB8A17AD84E5D",
            ),
            (
                &AES_256,
                "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F",
                "64E8C3F9CE0F5BA2 63E9777905818A2A 93C8191E7D6E8AE7",
            ),
        ];
        for (algorithm, key, wrapped) in cases {
            let (key, mut wrapped) = (bytes(key), bytes(wrapped));
            assert_eq!(unwrap(algorithm, &key, &wrapped).as_ref(), Some(&data));
            wrapped[9] ^= 1;
            assert_eq!(unwrap(algorithm, &key, &wrapped), None);
        }
    }

    #[test]
    fn garbage_is_no_key_material() {
        let mut keys = Keys::new(Secret::new("a passphrase"));
        for length in [0, 15, 16, 40, 56] {
            assert_eq!(keys.handle_material(&vec![0x12; length]), Err(KeyFault::Malformed));
        }
        let mut material = bytes("12202901 00000000 02000200 00000404");
        material.extend([7; 16 + 24]);
        assert_eq!(keys.handle_material(&material), Err(KeyFault::BadSecret));
        assert!(!keys.decipher(KeyParity::Even, Seq::new(1), &mut [0; 4]));
        assert!(!format!("{keys:?}").contains("passphrase"));
    }
}
