//! Passphrases of SRT inputs. SRT needs the clear text to derive keys, so they are kept sealed (AES-256-GCM) under a key
//! derived from a secret that is a file of the data directory: who has the database alone can read none of them.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};

use super::Store;
use crate::secret::{Passphrase, random};
use crate::{Error, InputId};

/// The file of the secret, beside the database.
pub const SEALING_FILE: &str = "sealing.key";

/// Bytes of the secret, and of the key made of it.
const SECRET_BYTES: usize = 32;

/// What the derived key is for, should others come.
const PURPOSE: &[u8] = b"srt passphrases";

/// How a publisher over SRT encrypts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrtSecret {
    /// What both sides know.
    pub passphrase: Passphrase,
    /// Bytes of the key that the publisher is told to use: 16, 24 or 32.
    pub key_bytes: u8,
}

impl Store {
    /// Sets or, with none, removes what publishers of an input must encrypt with. The next publisher meets it.
    pub async fn set_srt_secret(
        &self,
        id: &InputId,
        secret: Option<&SrtSecret>,
    ) -> Result<(), Error> {
        self.input(id).await?;
        let Some(secret) = secret else { return self.db.delete_srt_secret(id).await };
        let key = self.sealing_key()?;
        let mut sealed = secret.passphrase.expose().as_bytes().to_vec();
        let nonce = key
            .seal_in_place_append_tag(Aad::from(id.as_str()), &mut sealed)
            .map_err(|_| Error::Sealing)?;
        let mut row = nonce.as_ref().to_vec();
        row.append(&mut sealed);
        self.db.put_srt_secret(id, secret.key_bytes, &row).await
    }

    /// What publishers of an input must encrypt with, if anything.
    pub async fn srt_secret(&self, id: &InputId) -> Result<Option<SrtSecret>, Error> {
        let Some((key_bytes, row)) = self.db.srt_secret(id).await? else { return Ok(None) };
        let key = self.sealing_key()?;
        let (nonce, sealed) = row.split_first_chunk::<NONCE_LEN>().ok_or(Error::Sealing)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let mut text = sealed.to_vec();
        // The id is authenticated too, so a row moved to another input opens nothing.
        let opened = key
            .open_in_place(nonce, Aad::from(id.as_str()), &mut text)
            .map_err(|_| Error::Sealing)?;
        let text = std::str::from_utf8(opened).map_err(|_| Error::Sealing)?;
        let passphrase = Passphrase::parse(text).ok_or(Error::Sealing)?;
        Ok(Some(SrtSecret { passphrase, key_bytes }))
    }

    fn sealing_key(&self) -> Result<RandomizedNonceKey, Error> {
        let path = self.data_dir.join(SEALING_FILE);
        let secret = secret_of(&path).map_err(|source| Error::DataDir { path, source })?;
        let derived = Salt::new(HKDF_SHA256, &[]).extract(&secret);
        let mut key = [0; SECRET_BYTES];
        derived
            .expand(&[PURPOSE], &AES_256_GCM)
            .and_then(|okm| okm.fill(&mut key))
            .and_then(|()| RandomizedNonceKey::new(&AES_256_GCM, &key))
            .map_err(|_| Error::Sealing)
    }
}

/// Reads the secret; the first to need it makes it. Written elsewhere and then linked, so that no other process ever
/// reads half of it, and never overwritten.
fn secret_of(path: &PathBuf) -> std::io::Result<[u8; SECRET_BYTES]> {
    if let Err(error) = std::fs::metadata(path) {
        if error.kind() != ErrorKind::NotFound {
            return Err(error);
        }
        make_secret(path)?;
    }
    let bytes = std::fs::read(path)?;
    bytes.try_into().map_err(|_| std::io::Error::new(ErrorKind::InvalidData, "not 32 bytes"))
}

fn make_secret(path: &Path) -> std::io::Result<()> {
    let own = path.with_extension(format!("new-{}", std::process::id()));
    let _ = std::fs::remove_file(&own);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&own)?;
    file.write_all(&random::<SECRET_BYTES>())?;
    file.sync_all()?;
    let linked = std::fs::hard_link(&own, path);
    std::fs::remove_file(&own)?;
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
