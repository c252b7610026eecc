//! TLS of a client: certificates of the system's authorities, or whatever its peer shows, for an
//! operator who says so, for load on a node that he names, and for the simulation. The handshake
//! itself is always checked.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::cli::Failure;

/// Where Debian keeps the authorities it trusts, all in one file.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// TLS 1.3 settings that accept the system's authorities, or any certificate when `insecure`.
pub fn authorities_or_any(insecure: bool) -> Result<ClientConfig, Failure> {
    if insecure {
        return Ok(any_certificate());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Failure::new(format!("cannot set up TLS: {error}")))?
        .with_root_certificates(authorities()?)
        .with_no_client_auth();
    Ok(config)
}

fn authorities() -> Result<RootCertStore, Failure> {
    let missing = |reason: String| {
        Failure::new(format!("cannot read the system's authorities from {AUTHORITIES}: {reason}"))
            .help("install ca-certificates, or accept any certificate with --insecure")
    };
    let mut store = RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(AUTHORITIES).map_err(|error| missing(error.to_string()))?;
    // One that is broken does not spoil the rest.
    store.add_parsable_certificates(certificates.filter_map(Result::ok));
    if store.is_empty() { Err(missing("it holds none".to_owned())) } else { Ok(store) }
}

/// TLS 1.3 settings that accept any certificate. Never for a peer that the wire chose.
pub fn any_certificate() -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has cipher suites for TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth()
}

/// Accepts any certificate; the handshake is still checked against it.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
