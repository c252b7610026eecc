//! TLS of `weir play`: certificates of the system's authorities, or any at all when the operator says so.

use rustls::ClientConfig;

use crate::cli::Failure;
use crate::client::trust;

/// TLS settings for QUIC with these protocols, preferred first.
pub(super) fn client_config(insecure: bool, alpn: Vec<Vec<u8>>) -> Result<ClientConfig, Failure> {
    let mut config = trust::authorities_or_any(insecure)?;
    config.alpn_protocols = alpn;
    Ok(config)
}
