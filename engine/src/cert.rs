//! The certificate: self-signed and short-lived in the data directory, or from the operator's files.
//!
//! Browsers accept a self-signed certificate for WebTransport when the page knows its hash, the key
//! is ECDSA P-256 and the whole validity is under 14 days (W3C WebTransport, custom certificate
//! requirements). This file makes, keeps and renews such a one, and gives rustls what it needs. It
//! takes the wall clock as an argument.

use std::{
    fmt::{self, Write},
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::config::CertificateSource;

/// Name of the self-signed certificate with its key inside the data directory.
pub const IDENTITY_FILE: &str = "tls.pem";

/// Whole validity of a self-signed certificate; browsers refuse 14 days and more.
const VALIDITY: Duration = Duration::from_secs(13 * DAY);
/// How far the start lies in the past, for clocks that are a little behind.
const BACKDATED: Duration = Duration::from_hours(1);
/// Renewed when less than this is left.
const RENEW_BEFORE: Duration = Duration::from_secs(3 * DAY);
const DAY: u64 = 24 * 60 * 60;
/// Names that every self-signed certificate has.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Starts the line of the file that says for which names and until when it is good.
const NOTE: &str = "# weir self-signed";

/// The certificate in use. Handshakes read it, [`Certificate::refresh`] replaces it; sessions that
/// are up keep what they were made with.
pub struct Certificate {
    source: CertificateSource,
    data_dir: PathBuf,
    held: RwLock<Arc<Held>>,
}

/// A certificate that cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read or written.
    #[error("cannot use {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds no usable certificate or key.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// Making a self-signed certificate failed.
    #[error("cannot make a certificate: {0}")]
    Generate(#[from] rcgen::Error),
}

struct Held {
    key: Arc<CertifiedKey>,
    sha256: [u8; 32],
    /// For a self-signed one: Unix time at which it ends.
    not_after: Option<Duration>,
}

impl Certificate {
    /// Loads the operator's files, or the self-signed certificate, which is made when there is
    /// none, when it is about to end, or when its names are not those asked for.
    pub fn load(
        source: CertificateSource,
        data_dir: &Path,
        wall: Duration,
    ) -> Result<Arc<Self>, Error> {
        let held = Arc::new(obtain(&source, data_dir, wall)?);
        Ok(Arc::new(Self { source, data_dir: data_dir.to_owned(), held: RwLock::new(held) }))
    }

    /// Renews a self-signed certificate that is about to end, or reads changed files again. To be
    /// called every hour or so; says whether the certificate is another one now.
    pub fn refresh(&self, wall: Duration) -> Result<bool, Error> {
        let fresh = obtain(&self.source, &self.data_dir, wall)?;
        let changed = fresh.sha256 != self.held().sha256;
        if changed {
            *self.held.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        }
        Ok(changed)
    }

    /// SHA-256 of the leaf in DER, as `serverCertificateHashes` wants it.
    pub fn sha256(&self) -> [u8; 32] {
        self.held().sha256
    }

    /// [`Certificate::sha256`] in lower-case hex.
    pub fn sha256_hex(&self) -> String {
        self.sha256().iter().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Whether pages must pin the hash, because no authority vouches for the certificate.
    pub fn is_self_signed(&self) -> bool {
        matches!(self.source, CertificateSource::SelfSigned { .. })
    }

    /// Unix time at which a self-signed certificate ends.
    pub fn not_after(&self) -> Option<Duration> {
        self.held().not_after
    }

    /// Server settings for TLS over TCP with these protocols, preferred first.
    pub fn tls_config(self: &Arc<Self>, alpn: &[&[u8]]) -> ServerConfig {
        self.server_config(&[&rustls::version::TLS13, &rustls::version::TLS12], alpn)
    }

    /// Server settings for QUIC: TLS 1.3 only, no 0-RTT.
    pub fn quic_config(self: &Arc<Self>, alpn: &[&[u8]]) -> ServerConfig {
        self.server_config(&[&rustls::version::TLS13], alpn)
    }

    fn server_config(
        self: &Arc<Self>,
        versions: &[&'static rustls::SupportedProtocolVersion],
        alpn: &[&[u8]],
    ) -> ServerConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("the provider has cipher suites for TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config
    }

    fn held(&self) -> Arc<Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.held().key.clone())
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("source", &self.source)
            .field("sha256", &self.sha256_hex())
            .finish_non_exhaustive()
    }
}

impl Error {
    /// The line that says what to do.
    pub fn help(&self) -> String {
        match self {
            Self::File { .. } => "check the path and its rights".into(),
            Self::Malformed { .. } => "PEM with a certificate chain and its PKCS #8 key".into(),
            Self::Generate(_) => "check tls.names".into(),
        }
    }
}

fn obtain(source: &CertificateSource, data_dir: &Path, wall: Duration) -> Result<Held, Error> {
    match source {
        CertificateSource::Files { certificate, key } => {
            held(&read(certificate)?, certificate, &read(key)?, key, None)
        }
        CertificateSource::SelfSigned { names } => {
            let names = all_names(names);
            let path = data_dir.join(IDENTITY_FILE);
            match fs::read(&path) {
                Ok(pem) => {
                    if let Some(not_after) = still_good(&pem, &names, wall) {
                        return held(&pem, &path, &pem, &path, Some(not_after));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(Error::File { path, source }),
            }
            let (pem, not_after) = generate(&names, wall)?;
            write_private(&path, pem.as_bytes())
                .map_err(|source| Error::File { path: path.clone(), source })?;
            held(pem.as_bytes(), &path, pem.as_bytes(), &path, Some(not_after))
        }
    }
}

/// One file holds note, certificate and key, so that no crash can leave two that do not match.
fn generate(names: &[String], wall: Duration) -> Result<(String, Duration), Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Weir");
    // Whole seconds, as the certificate has them.
    let start = Duration::from_secs(wall.saturating_sub(BACKDATED).as_secs());
    let not_after = start + VALIDITY;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + start;
    params.not_after = epoch + not_after;
    let certificate = params.self_signed(&key)?;
    let note = format!("{NOTE}; until {}; names {}", not_after.as_secs(), names.join(" "));
    Ok((format!("{note}\n{}{}", certificate.pem(), key.serialize_pem()), not_after))
}

/// The end of a stored certificate that can be used on.
fn still_good(pem: &[u8], names: &[String], wall: Duration) -> Option<Duration> {
    let text = std::str::from_utf8(pem).ok()?;
    let note = text.lines().next()?.strip_prefix(NOTE)?.strip_prefix("; until ")?;
    let (until, covered) = note.split_once("; names ")?;
    let not_after = Duration::from_secs(until.parse().ok()?);
    // A clock that was set back would otherwise keep one that is valid only in the future.
    let started = wall >= not_after.checked_sub(VALIDITY)?;
    let fits = covered.split(' ').eq(names.iter().map(String::as_str));
    (started && fits && wall + RENEW_BEFORE <= not_after).then_some(not_after)
}

fn all_names(configured: &[String]) -> Vec<String> {
    let mut names: Vec<String> = LOCAL_NAMES.map(str::to_owned).to_vec();
    for name in configured {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

fn held(
    chain_pem: &[u8],
    chain_path: &Path,
    key_pem: &[u8],
    key_path: &Path,
    not_after: Option<Duration>,
) -> Result<Held, Error> {
    let malformed =
        |path: &Path, reason: String| Error::Malformed { path: path.to_owned(), reason };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain_pem)
        .collect::<Result<_, _>>()
        .map_err(|error| malformed(chain_path, format!("not a PEM certificate: {error}")))?;
    let leaf =
        chain.first().ok_or_else(|| malformed(chain_path, "holds no certificate".to_owned()))?;
    let digest = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, leaf);
    let sha256 = digest.as_ref().try_into().expect("SHA-256 has 32 bytes");
    let key = PrivateKeyDer::from_pem_slice(key_pem)
        .map_err(|error| malformed(key_path, format!("not a PEM private key: {error}")))?;
    let key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .map_err(|error| malformed(key_path, format!("key and certificate do not fit: {error}")))?;
    Ok(Held { key: Arc::new(key), sha256, not_after })
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })
}

/// Writes a file that only its owner can read, whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use io::Write as _;

    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    // What an earlier process of this id left must not decide the rights.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::cli::testing::TempDir;

    const WALL: Duration = Duration::from_secs(1_760_000_000);

    fn self_signed(names: &[&str]) -> CertificateSource {
        CertificateSource::SelfSigned { names: names.iter().map(ToString::to_string).collect() }
    }

    fn load(dir: &TempDir, names: &[&str], wall: Duration) -> Arc<Certificate> {
        Certificate::load(self_signed(names), dir.path(), wall).expect("a certificate")
    }

    #[test]
    fn a_certificate_lives_under_14_days_and_is_kept_until_3_are_left() {
        let dir = TempDir::new();
        let first = load(&dir, &[], WALL);
        assert!(VALIDITY < Duration::from_secs(14 * DAY));
        let until = first.not_after().expect("self-signed");
        assert!(until <= WALL + VALIDITY);
        let last = until.saturating_sub(RENEW_BEFORE);
        let kept = load(&dir, &[], last);
        assert_eq!(first.sha256(), kept.sha256());
        let renewed = load(&dir, &[], last + Duration::from_secs(1));
        assert_ne!(first.sha256(), renewed.sha256());
        assert!(first.refresh(until).expect("the newer file is read"));
    }

    #[test]
    fn another_name_makes_another_certificate() {
        let dir = TempDir::new();
        let local = load(&dir, &[], WALL);
        let named = load(&dir, &["live.example.com"], WALL);
        assert_ne!(local.sha256(), named.sha256());
        assert_eq!(named.sha256(), load(&dir, &["live.example.com"], WALL).sha256());
    }

    #[test]
    fn the_key_is_readable_by_its_owner_only() {
        let dir = TempDir::new();
        let certificate = load(&dir, &[], WALL);
        let file = dir.path().join(IDENTITY_FILE);
        assert_eq!(fs::metadata(file).expect("written").permissions().mode() & 0o777, 0o600);
        assert_eq!(certificate.sha256_hex().len(), 64);
        assert!(!format!("{certificate:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_clock_set_back_gets_a_certificate_that_is_valid_now() {
        let dir = TempDir::new();
        let future = load(&dir, &[], WALL);
        let now = load(&dir, &[], WALL.saturating_sub(VALIDITY));
        assert_ne!(future.sha256(), now.sha256());
    }

    #[test]
    fn a_client_that_trusts_the_certificate_gets_through_the_handshake() {
        let dir = TempDir::new();
        let wall = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
        let certificate = load(&dir, &[], wall);
        let mut roots = rustls::RootCertStore::empty();
        let leaf = certificate.held().key.cert.first().cloned().expect("a leaf");
        roots.add(leaf).expect("it can be an anchor");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut client_config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        client_config.alpn_protocols = vec![b"h2".to_vec()];
        for name in ["localhost", "127.0.0.1", "::1"] {
            let server_config = Arc::new(certificate.tls_config(&[b"h2", b"http/1.1"]));
            let mut server = rustls::ServerConnection::new(server_config).expect("a server");
            let mut client = rustls::ClientConnection::new(
                Arc::new(client_config.clone()),
                name.try_into().expect("a name"),
            )
            .expect("a client");
            while client.is_handshaking() || server.is_handshaking() {
                let mut wire = Vec::new();
                client.write_tls(&mut wire).expect("writes to memory");
                server.read_tls(&mut wire.as_slice()).expect("reads from memory");
                server.process_new_packets().expect("the server is content");
                let mut wire = Vec::new();
                server.write_tls(&mut wire).expect("writes to memory");
                client.read_tls(&mut wire.as_slice()).expect("reads from memory");
                client.process_new_packets().expect("the client is content");
            }
            assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]), "{name}");
        }
    }

    #[test]
    fn files_of_the_operator_are_used_and_mistakes_in_them_named() {
        let dir = TempDir::new();
        load(&dir, &[], WALL);
        let pem = dir.path().join(IDENTITY_FILE);
        let source = |certificate: &Path, key: &Path| CertificateSource::Files {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        };
        let loaded = Certificate::load(source(&pem, &pem), dir.path(), WALL).expect("valid");
        assert!(!loaded.is_self_signed());
        let empty = dir.path().join("empty.pem");
        fs::write(&empty, "").expect("writable");
        let error = Certificate::load(source(&empty, &pem), dir.path(), WALL).expect_err("empty");
        assert!(error.to_string().contains("holds no certificate"), "{error}");
        let missing = dir.path().join("missing.pem");
        let error = Certificate::load(source(&missing, &pem), dir.path(), WALL).expect_err("gone");
        assert!(matches!(error, Error::File { .. }), "{error}");
    }
}
