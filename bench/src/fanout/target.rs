//! Where a measurement publishes and subscribes: either two URLs, or the data directory of a running node, in which it
//! makes an input and a token of its own. Secrets live in the paths and nowhere else.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use weir_control::{Ingest, NewInput, Store};
use weir_moqt::Namespace;

/// Longer than any run.
const TOKEN_TTL: Duration = Duration::from_hours(6);

/// One relay, one input. No `Debug`: the paths hold secrets.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) authority: String,
    pub(super) publish_path: String,
    pub(super) playback_path: String,
    pub(super) namespace: Namespace,
}

impl Target {
    /// Makes an input and a token in the data directory of a running node.
    pub(super) fn in_data_dir(data_dir: &Path) -> Result<Self> {
        let mut targets = Self::several_in_data_dir(data_dir, 1)?;
        targets.pop().ok_or_else(|| anyhow!("no input was made"))
    }

    /// Broadcasts on a relay that lets everybody publish and subscribe: the first of `count` is `bench/0`.
    pub(super) fn several_in_the_open(address: SocketAddr, count: u32) -> Result<Vec<Self>> {
        let target = |at: u32| -> Result<Self> {
            Ok(Self {
                address,
                authority: address.to_string(),
                publish_path: "/".to_owned(),
                playback_path: "/".to_owned(),
                namespace: Namespace::new(["bench", at.to_string().as_str()])?,
            })
        };
        (0..count).map(target).collect()
    }

    /// Makes inputs, each with its own token, in the data directory of a running node.
    pub(super) fn several_in_data_dir(data_dir: &Path, count: u32) -> Result<Vec<Self>> {
        let addresses = weir::cli::Addresses::of_running(data_dir)
            .ok_or_else(|| anyhow!("no weir is running on {}", data_dir.display()))?;
        let authority = addresses.authority(addresses.quic);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let store = Store::open(data_dir).await?;
            let mut targets = Vec::new();
            for _ in 0..count {
                let new = NewInput::new("weir-bench fanout", Ingest::Fmp4);
                let (input, key) = store.create_input(new).await?;
                let minted = store.mint_playback_token(&input.id, TOKEN_TTL).await?;
                targets.push(Self {
                    address: resolve(&authority)?,
                    authority: authority.clone(),
                    publish_path: format!("/publish/{}?sk={}", input.id, key.expose()),
                    playback_path: format!("/playback/{}?tok={}", input.id, minted.token.expose()),
                    namespace: Namespace::new(["stream", input.org.as_str(), input.id.as_str()])?,
                });
            }
            store.close().await;
            Ok(targets)
        })
    }

    /// Uses two URLs of one input: `…/publish/ID?sk=…` and `…/playback/ID?tok=…`.
    pub(super) fn of_urls(publish: &str, playback: &str) -> Result<Self> {
        let (authority, playback_path) = split(playback)?;
        let (publish_authority, publish_path) = split(publish)?;
        ensure!(authority == publish_authority, "both URLs must name the same host");
        let id = playback_path
            .strip_prefix("/playback/")
            .and_then(|rest| rest.split('?').next())
            .ok_or_else(|| anyhow!("the playback URL has no /playback/ID"))?;
        let organisation = organisation(playback_path)
            .ok_or_else(|| anyhow!("the playback URL carries no readable token"))?;
        Ok(Self {
            address: resolve(authority)?,
            authority: authority.to_owned(),
            publish_path: publish_path.to_owned(),
            playback_path: playback_path.to_owned(),
            namespace: Namespace::new(["stream", &organisation, id])?,
        })
    }
}

/// Authority and path of a URL. Errors do not repeat it: it holds a secret.
fn split(url: &str) -> Result<(&str, &str)> {
    let rest = url.split_once("://").map(|(_, rest)| rest);
    let rest = rest.ok_or_else(|| anyhow!("a URL is missing its scheme"))?;
    let at = rest.find('/').ok_or_else(|| anyhow!("a URL is missing its path"))?;
    Ok(rest.split_at(at))
}

fn resolve(authority: &str) -> Result<SocketAddr> {
    let mut found =
        authority.to_socket_addrs().with_context(|| format!("cannot resolve {authority}"))?;
    found.next().ok_or_else(|| anyhow!("{authority} has no address"))
}

/// Issuer of the token in a path, which is the second field of the namespace.
fn organisation(path: &str) -> Option<String> {
    let token = path.split_once("tok=")?.1;
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    Some(claims.get("iss")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_urls_make_a_target() {
        let token = format!("h.{}.s", URL_SAFE_NO_PAD.encode(r#"{"iss":"org_1"}"#));
        let playback = format!("moqt://127.0.0.1:9/playback/lv_1?tok={token}");
        let target = Target::of_urls("moqt://127.0.0.1:9/publish/lv_1?sk=k", &playback)
            .map_err(|error| error.to_string())
            .expect("a target");
        assert_eq!(target.publish_path, "/publish/lv_1?sk=k");
        assert_eq!(target.namespace.to_string(), "stream-org_1-lv_1");
    }

    #[test]
    fn errors_do_not_repeat_secrets() {
        for (publish, playback) in [
            ("sk_secret", "sk_secret"),
            ("https://a/b?sk_secret", "https://b/playback/c?sk_secret"),
        ] {
            let Err(error) = Target::of_urls(publish, playback) else { continue };
            assert!(!format!("{error:#}").contains("sk_secret"), "{error:#}");
        }
    }
}
