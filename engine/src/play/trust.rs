//! Which certificates `weir play` accepts: those of the system's authorities, or any at all when the operator says so.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::cli::Failure;
use crate::client::trust;

/// Where Debian keeps the authorities it trusts, all in one file.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// TLS settings for QUIC with these protocols, preferred first.
pub(super) fn client_config(insecure: bool, alpn: Vec<Vec<u8>>) -> Result<ClientConfig, Failure> {
    let mut config = if insecure {
        trust::any_certificate()
    } else {
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| Failure::new(format!("cannot set up TLS: {error}")))?
            .with_root_certificates(authorities()?)
            .with_no_client_auth()
    };
    config.alpn_protocols = alpn;
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
