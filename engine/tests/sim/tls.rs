//! A certificate nobody checks and tokens that are checked.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs as provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

pub(super) const KID: &str = "sgk_sim";

pub(super) fn server(alpn: &[&[u8]]) -> ServerConfig {
    let (certificate, key) = identity();
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a certificate and its key");
    config.alpn_protocols = alpn.iter().map(|token| token.to_vec()).collect();
    config
}

/// Always the same. Its signatures, unlike those of ECDSA, have one length and no chance in them.
fn identity() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[6; 32]).expect("a key");
    let key = PrivatePkcs8KeyDer::from(pair.to_pkcs8().expect("PKCS #8").as_ref().to_vec());
    let signer = rcgen::KeyPair::try_from(&key).expect("a key");
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
    params.serial_number = Some(1_u64.into());
    let certificate = params.self_signed(&signer).expect("a certificate");
    (certificate.der().clone(), key.into())
}

/// A signing key of the organisation.
pub(super) struct Tokens(Ed25519KeyPair);

impl Tokens {
    pub(super) fn new() -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a key"))
    }

    pub(super) fn public(&self) -> [u8; 32] {
        self.0.public_key().as_ref().try_into().expect("32 bytes")
    }

    pub(super) fn mint(&self, input: &str, wall: Duration, lifetime: Duration) -> String {
        self.mint_for(input, wall, lifetime, None)
    }

    /// The same for a viewer with a name, by which it and its one token can be revoked.
    pub(super) fn mint_for(
        &self,
        input: &str,
        wall: Duration,
        lifetime: Duration,
        viewer: Option<&str>,
    ) -> String {
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA);
        header.kid = Some(KID.to_owned());
        let iat = wall.as_secs();
        let mut claims = serde_json::json!({
            "iss": super::ORG, "sub": input, "aud": "playback",
            "iat": iat, "exp": iat + lifetime.as_secs(),
        });
        if let Some(viewer) = viewer {
            claims["vid"] = viewer.into();
            claims["jti"] = format!("token of {viewer}").into();
        }
        let private = self.0.to_pkcs8().expect("PKCS #8");
        let key = jsonwebtoken::EncodingKey::from_ed_der(private.as_ref());
        jsonwebtoken::encode(&header, &claims, &key).expect("a token")
    }
}
