//! The short commands: they open the store, do one thing beside a running server, and print it.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
};

use serde_json::json;
use weir_control::{
    DATABASE_FILE, Ingest, InputChange, InputHealth, InputStatus, NewInput, NodeSecret, Scope,
    SrtSecret, Store, StreamKey, Withdraw,
};

use super::{
    Addresses, Failure,
    args::{ApiKey, Input, NodeKey, PassphraseChange, SigningKey, Token, Which},
    failure::written,
};
use crate::{
    config::{Config, UpFlags},
    mesh,
    topology::HostFacts,
};

/// Read from standard input as a token; longer ones are refused by everybody.
const TOKEN_BYTES_MAX: u64 = 9 * 1024;

pub(super) fn input(config: &Config, command: Input, out: &mut dyn Write) -> Result<(), Failure> {
    let addresses = addresses(config);
    match command {
        Input::Create { name, ingest, policy, reconnect_window, passphrase, pbkeylen, json } => {
            if passphrase.is_some() && ingest != Ingest::Srt {
                return Err(Failure::new("only SRT publishers encrypt with a passphrase")
                    .help("add --ingest srt, or leave --passphrase out"));
            }
            let secret = passphrase.map(|passphrase| SrtSecret { passphrase, key_bytes: pbkeylen });
            let reconnect_window_s = seconds(reconnect_window);
            let new = NewInput { name, ingest, policy, reconnect_window_s };
            let (input, key) = with_store(config, Missing::Create, async |store| {
                let made = store.create_input(new).await?;
                if secret.is_some() {
                    store.set_srt_secret(&made.0.id, secret.as_ref()).await?;
                }
                Ok(made)
            })?;
            keyed(&addresses, &input, (&key, secret.as_ref()), json, out)
        }
        Input::Show { id, json } => {
            let (input, status) = with_store(config, Missing::Refuse, async |store| {
                Ok((store.input(&id).await?, store.input_status(&id).await?))
            })?;
            shown(&input, &status, json, out)
        }
        Input::Health { id, json } => {
            let health =
                with_store(config, Missing::Refuse, async |store| store.input_health(&id).await)?;
            healthy(&health, json, out)
        }
        Input::Set { id, name, ingest, policy, reconnect_window, json } => {
            let reconnect_window_s = reconnect_window.map(seconds);
            let change = InputChange { name, ingest, policy, reconnect_window_s };
            let (input, status) = with_store(config, Missing::Refuse, async |store| {
                Ok((store.change_input(&id, change).await?, store.input_status(&id).await?))
            })?;
            shown(&input, &status, json, out)
        }
        Input::List { json } => {
            let inputs = with_store(config, Missing::Refuse, async |store| {
                store.inputs_with_status().await
            })?;
            if json {
                let data: Vec<_> = inputs.iter().map(|(input, of)| stated(input, of)).collect();
                return written(writeln!(out, "{}", json!({ "data": data })));
            }
            if inputs.is_empty() {
                let first = "no inputs yet: `weir input create --name NAME` makes the first";
                return written(writeln!(out, "{first}"));
            }
            inputs.iter().try_for_each(|(input, status)| {
                let (id, ingest, state) = (&input.id, input.ingest.as_str(), status.state.as_str());
                let (at, name) = (input.created_at, &input.name);
                written(writeln!(out, "{id}  {ingest:<5} {state:<12}  {at}  {name}"))
            })
        }
        Input::RotateKey { id, passphrase, pbkeylen, json } => {
            let secret = match passphrase.clone() {
                Some(PassphraseChange::New(passphrase)) => {
                    Some(SrtSecret { passphrase, key_bytes: pbkeylen })
                }
                _ => None,
            };
            let (input, key) = with_store(config, Missing::Refuse, async |store| {
                let input = store.input(&id).await?;
                if passphrase.is_some() {
                    store.set_srt_secret(&id, secret.as_ref()).await?;
                }
                Ok((input, store.rotate_stream_key(&id).await?))
            })?;
            keyed(&addresses, &input, (&key, secret.as_ref()), json, out)
        }
    }
}

/// An input and its state as one object.
fn stated(input: &weir_control::Input, status: &InputStatus) -> serde_json::Value {
    let (mut whole, status) = (json!(input), json!(status));
    if let (Some(whole), Some(status)) = (whole.as_object_mut(), status.as_object()) {
        whole.extend(status.clone());
    }
    whole
}

fn shown(
    input: &weir_control::Input,
    status: &InputStatus,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    if json {
        return written(writeln!(out, "{}", stated(input, status)));
    }
    let since = status.state_since.map_or(String::new(), |since| format!(" since {since}"));
    let reason = status.state_reason.as_ref().map_or(String::new(), |why| format!(" ({why})"));
    written(write!(
        out,
        "input     {}\nname      {}\ningest    {}\npolicy    {}, reconnect window {} s\n\
         state     {}{reason}{since}\n",
        input.id,
        input.name,
        input.ingest.as_str(),
        input.policy.as_str(),
        input.reconnect_window_s,
        status.state.as_str(),
    ))
}

/// The health of an input as a short table, warnings last.
fn healthy(health: &InputHealth, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    if json {
        return written(writeln!(out, "{}", json!(health)));
    }
    let reason =
        health.status.state_reason.as_ref().map_or(String::new(), |why| format!(" ({why})"));
    written(writeln!(out, "state     {}{reason}", health.status.state.as_str()))?;
    let (Some(of), Some(at)) = (&health.health, health.measured_at) else {
        return written(writeln!(out, "measured  never"));
    };
    written(writeln!(out, "measured  {at}"))?;
    for (label, key, unit) in [
        ("bitrate", "bitrate", "b/s"),
        ("video", "video_codec", ""),
        ("width", "width", "px"),
        ("height", "height", "px"),
        ("rate", "frame_rate", "fps"),
        ("keyframe", "keyframe_interval_ms", "ms apart"),
        ("b-frames", "b_frames", ""),
        ("audio", "audio_codec", ""),
        ("skew", "audio_delay_ms", "ms"),
        ("drift", "drift_ppm", "ppm"),
    ] {
        let value = match &of[key] {
            serde_json::Value::Null => continue,
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        written(writeln!(out, "{label:<9} {value} {unit}"))?;
    }
    let warnings = of["warnings"].as_array().into_iter().flatten();
    warnings
        .filter_map(|warning| Some((warning["code"].as_str()?, warning["message"].as_str()?)))
        .try_for_each(|(code, text)| written(writeln!(out, "warning   {code}: {text}")))
}

/// Whole seconds, rounded up so that a short window is not none; what is too long the store refuses.
fn seconds(span: std::time::Duration) -> u32 {
    u32::try_from(span.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX)
}

/// An input with its fresh key: the only time that is shown.
fn keyed(
    addresses: &Addresses,
    input: &weir_control::Input,
    (key, secret): (&StreamKey, Option<&SrtSecret>),
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let urls = addresses.publish_urls(&input.id, key).with_srt_secret(secret);
    if json {
        let mut answer = json!(input);
        answer["stream_key"] = key.expose().into();
        if let Some(secret) = secret {
            answer["passphrase"] = secret.passphrase.expose().into();
        }
        answer["urls"] = json!(urls);
        return written(writeln!(out, "{answer}"));
    }
    let head =
        format!("input       {}\nstream key  {} (shown this once)\n", input.id, key.expose());
    written(out.write_all(head.as_bytes()))?;
    if let Some(secret) = secret {
        let line = format!("passphrase  {} (shown this once)", secret.passphrase.expose());
        written(writeln!(out, "{line}"))?;
    }
    urls.accepted(input.ingest)
        .into_iter()
        .try_for_each(|(name, url)| written(writeln!(out, "{name:<10}  {url}")))
}

pub(super) fn token(config: &Config, command: Token, out: &mut dyn Write) -> Result<(), Failure> {
    let (id, vid, ttl, json) = match command {
        Token::Mint { id, vid, ttl, json } => (id, vid, ttl, json),
        Token::Revoke { what, json } => return revoke(config, what, json, out),
    };
    let minted = with_store(config, Missing::Refuse, async |store| {
        store.mint_viewer_token(&id, vid.as_deref(), ttl).await
    })?;
    let addresses = addresses(config);
    let playback_url = addresses.playback_url(&id, &minted.token);
    let page_url = addresses.page_url(&id, &minted.token);
    written(if json {
        let answer = json!({
            "token": minted.token.expose(),
            "playback_url": playback_url,
            "page_url": page_url,
            "kid": minted.kid,
            "alg": minted.algorithm.as_str(),
            "jti": minted.jti,
            "vid": vid,
            "expires_at": minted.expires_at,
            "expires_at_unix": minted.expires_at.as_secs(),
        });
        writeln!(out, "{answer}")
    } else {
        write!(
            out,
            "playback  {playback_url}\npage      {page_url}\ntoken id  {}\nexpires   {}\n",
            minted.jti, minted.expires_at
        )
    })
}

fn revoke(config: &Config, what: Which, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let token = if what.token_stdin { Some(token_from(&mut std::io::stdin())?) } else { None };
    let (revocation, _) = with_store(config, Missing::Refuse, async |store| {
        let org = store.default_org();
        let what = match (what.jti, what.vid, what.ver, token) {
            (Some(jti), ..) => Withdraw::Token(jti),
            (_, Some(vid), ..) => Withdraw::Viewer(vid),
            (_, _, Some(version), _) => Withdraw::Version(version),
            (.., token) => Withdraw::token(&token.unwrap_or_default(), org)?,
        };
        store.revoke(org, what).await
    })?;
    let (kind, value) = (revocation.what.kind(), revocation.what.value());
    written(if json {
        writeln!(out, "{}", json!(revocation))
    } else {
        let until = revocation.until;
        writeln!(out, "revoked {kind} {value}: sessions end within a second; kept until {until}")
    })
}

/// One token, at most as long as one can be.
fn token_from(input: &mut dyn Read) -> Result<String, Failure> {
    let mut token = String::new();
    input
        .take(TOKEN_BYTES_MAX)
        .read_to_string(&mut token)
        .map_err(|error| Failure::new(format!("cannot read standard input: {error}")))?;
    Ok(token)
}

pub(super) fn signing_key(
    config: &Config,
    command: SigningKey,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    match command {
        SigningKey::Create => {
            let key = with_store(config, Missing::Create, async |store| {
                store.create_signing_key().await
            })?;
            written(writeln!(out, "{}", key.kid))
        }
        SigningKey::List => {
            let keys =
                with_store(config, Missing::Refuse, async |store| store.signing_keys().await)?;
            keys.iter().try_for_each(|key| {
                let state = if key.active { "active" } else { "inactive" };
                let (kid, algorithm) = (&key.kid, key.algorithm.as_str());
                written(writeln!(out, "{kid}  {algorithm}  {state:<8}  {}", key.created_at))
            })
        }
        SigningKey::Deactivate { kid } => {
            with_store(config, Missing::Refuse, async |store| {
                store.deactivate_signing_key(&kid).await
            })?;
            written(writeln!(
                out,
                "{kid} is inactive: its tokens are refused, sessions on them end"
            ))
        }
    }
}

pub(super) fn api_key(
    config: &Config,
    command: ApiKey,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let ApiKey::Create { name, json } = command;
    let (record, key) = with_store(config, Missing::Create, async |store| {
        store.issue_api_key(&name, &Scope::ALL).await
    })?;
    let console = format!("{}console", addresses(config).start_page());
    written(if json {
        let answer = json!({
            "id": record.id.as_str(), "api_key": key.expose(), "console": console,
        });
        writeln!(out, "{answer}")
    } else {
        write!(
            out,
            "API key  {} (shown this once)\nid       {}\nconsole  {console}\n",
            key.expose(),
            record.id,
        )
    })
}

pub(super) fn node_key(
    config: &Config,
    command: NodeKey,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    match command {
        NodeKey::Create { name, json } => {
            let secret = NodeSecret::generate();
            let (record, key) = with_store(config, Missing::Create, async |store| {
                let hash = weir_relay::NodeKeys::hash(store.mesh_hashing(), secret.expose());
                let record = store.add_node_key(&name, &hash).await?;
                let engine = mesh::Trust::public_key(store.mesh_signing());
                Ok((record, mesh::NodeKey::new(secret.expose(), engine)))
            })?;
            let quic = addresses(config).webtransport_base().replacen("https://", "moqt://", 1);
            written(if json {
                let id = record.id.as_str();
                let answer = json!({ "id": id, "node_key": key.expose(), "upstream": quic });
                writeln!(out, "{answer}")
            } else {
                write!(
                    out,
                    "node key  {} (shown this once)\nid        {}\nupstream  {quic}\n",
                    key.expose(),
                    record.id,
                )
            })
        }
        NodeKey::List => {
            let keys = with_store(config, Missing::Refuse, async |store| store.node_keys().await)?;
            keys.iter().try_for_each(|key| {
                let state = if key.active { "active" } else { "revoked" };
                written(writeln!(out, "{}  {state:<7}  {}  {}", key.id, key.created_at, key.name))
            })
        }
        NodeKey::Revoke { id } => {
            with_store(config, Missing::Refuse, async |store| store.revoke_node_key(&id).await)?;
            written(writeln!(out, "{id} is revoked: its nodes are cut off"))
        }
    }
}

pub(super) fn check(
    config: &Config,
    file: Option<&Path>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let up = config.resolve(UpFlags::default(), &HostFacts::read())?;
    let file = file.map_or("no file, defaults".to_owned(), |path| path.display().to_string());
    let on = &up.topology.listeners;
    let pins: Vec<String> = up
        .topology
        .shards
        .iter()
        .map(|shard| shard.core.map_or("any core".to_owned(), |core| format!("core {core}")))
        .collect();
    written(write!(
        out,
        "ok ({file})\n  data    {}\n  http    {}\n  https   {}\n  quic    {}\n  rtmp    {}\n  \
         rtmps   {}\n  srt     {}\n  whip    {}\n  shards  {} ({})\n",
        up.data_dir.display(),
        on.http,
        on.https,
        on.quic,
        on.rtmp,
        on.rtmps,
        on.srt,
        on.whip,
        pins.len(),
        pins.join(", "),
    ))
}

/// What to do when the data directory holds no database yet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Create,
    Refuse,
}

/// A mistyped directory must not be answered with an empty one.
fn with_store<T>(
    config: &Config,
    missing: Missing,
    action: impl AsyncFnOnce(&Store) -> Result<T, weir_control::Error>,
) -> Result<T, Failure> {
    let database: PathBuf = config.data_dir.join(DATABASE_FILE);
    if missing == Missing::Refuse && !database.exists() {
        let text = format!("no Weir data in {}", config.data_dir.display());
        return Err(Failure::new(text).help("name the directory of `weir up` with --data-dir"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        let store = Store::open(&config.data_dir).await?;
        let result = action(&store).await;
        store.close().await;
        Ok(result?)
    })
}

fn addresses(config: &Config) -> Addresses {
    Addresses::of_running(&config.data_dir).unwrap_or_else(|| Addresses::configured(config))
}
