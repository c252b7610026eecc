use std::{collections::HashSet, fs, os::unix::fs::PermissionsExt};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, Validation};
use sqlx::Connection;

use super::*;
use crate::{Claims, Passphrase, TTL_MAX, TTL_MIN, testing::TempDir};

async fn open(dir: &TempDir) -> Store {
    Store::open(dir.path()).await.expect("the store opens")
}

fn named(name: &str) -> NewInput {
    NewInput::new(name, Ingest::Rtmp)
}

fn claims(minted: &MintedToken, key: &PlaybackKey) -> Claims {
    let mut validation = Validation::new(jsonwebtoken::Algorithm::EdDSA);
    validation.set_audience(&[Claims::AUDIENCE]);
    let public = URL_SAFE_NO_PAD.encode(key.public_key);
    let key = DecodingKey::from_ed_components(&public).expect("a public key");
    jsonwebtoken::decode(minted.token.expose(), &key, &validation).expect("it verifies").claims
}

#[tokio::test]
async fn two_handles_on_one_directory_see_each_others_inputs() {
    let dir = TempDir::new();
    let (server, cli) = (open(&dir).await, open(&dir).await);
    assert_eq!(server.default_org(), cli.default_org());
    assert_eq!(server.steering_key(), cli.steering_key());
    let (input, key) = cli.create_input(named("Stage")).await.expect("created");
    assert_eq!(server.input(&input.id).await.expect("seen"), input);
    let verified = server.verify_stream_key(input.id.as_str(), key.expose()).await;
    assert_eq!(verified.expect("the key fits"), input);
    assert_eq!(server.inputs().await.expect("listed"), [input]);
}

#[tokio::test]
async fn many_processes_may_start_on_an_empty_directory_at_once() {
    let dir = TempDir::new();
    let mut opening = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let path = dir.path().to_owned();
        opening.spawn(async move { Store::open(&path).await.expect("the store opens") });
    }
    let stores = opening.join_all().await;
    let orgs: HashSet<&OrgId> = stores.iter().map(Store::default_org).collect();
    assert_eq!(orgs.len(), 1);
    assert_eq!(stores[0].signing_keys().await.expect("listed").len(), 1);
}

#[tokio::test]
async fn wrong_key_and_unknown_input_are_one_refusal() {
    let dir = TempDir::new();
    let store = open(&dir).await;
    let (input, key) = store.create_input(named("a")).await.expect("created");
    let (other, other_key) = store.create_input(named("b")).await.expect("created");
    let long = "k".repeat(1 << 20);
    let mut said = HashSet::new();
    for (id, key) in [
        (input.id.as_str(), "sk_live_wrong"),
        (input.id.as_str(), ""),
        (input.id.as_str(), other_key.expose()),
        (input.id.as_str(), &long),
        ("lv_00000000000000000000000000", key.expose()),
        ("' OR 1=1 --", key.expose()),
        ("", ""),
    ] {
        let error = store.verify_stream_key(id, key).await.expect_err("refused");
        said.insert((error.to_string(), error.code(), format!("{error:?}")));
    }
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(store.verify_stream_key(other.id.as_str(), other_key.expose()).await.is_ok());
}

#[tokio::test]
async fn an_unknown_input_is_compared_with_a_hash_of_the_same_length() {
    let dir = TempDir::new();
    let store = open(&dir).await;
    let (input, key) = store.create_input(named("a")).await.expect("created");
    let known = store.db.key_candidate(input.id.as_str()).await.expect("read");
    let unknown = store.db.key_candidate("lv_unknown").await.expect("read");
    assert!(known.input.is_some() && unknown.input.is_none());
    assert_eq!(known.hash.len(), unknown.hash.len());
    assert_eq!(known.hash, store.stream_key_hash(input.id.as_str(), key.expose()));
    assert_ne!(unknown.hash, known.hash);
}

#[tokio::test]
async fn after_rotation_only_the_new_key_opens() {
    let dir = TempDir::new();
    let store = open(&dir).await;
    let (input, old) = store.create_input(named("a")).await.expect("created");
    let new = store.rotate_stream_key(&input.id).await.expect("rotated");
    assert!(store.verify_stream_key(input.id.as_str(), old.expose()).await.is_err());
    assert!(store.verify_stream_key(input.id.as_str(), new.expose()).await.is_ok());
    let nobody = InputId::generate();
    assert!(matches!(store.rotate_stream_key(&nobody).await, Err(Error::UnknownInput(_))));
}

#[tokio::test]
async fn the_servers_own_input_is_made_once_and_gets_a_fresh_key_each_time() {
    let dir = TempDir::new();
    let store = open(&dir).await;
    let (first, old) = store.ensure_input(named("Demo")).await.expect("made");
    let (second, new) = store.ensure_input(named("Demo")).await.expect("found");
    assert_eq!(first, second);
    assert_ne!(old, new);
    assert!(store.verify_stream_key(first.id.as_str(), new.expose()).await.is_ok());
}

#[tokio::test]
async fn clear_keys_are_not_in_the_database() {
    let dir = TempDir::new();
    let store = open(&dir).await;
    let (_, stream_key) = store.create_input(named("a")).await.expect("created");
    let (_, api_key) = store.issue_api_key("ready", &Scope::ALL).await.expect("issued");
    store.close().await;
    for entry in fs::read_dir(dir.path()).expect("listable") {
        let bytes = fs::read(entry.expect("an entry").path()).expect("readable");
        for secret in [stream_key.expose(), api_key.expose()] {
            assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()));
        }
    }
}

#[tokio::test]
async fn files_are_readable_by_their_owner_only() {
    let dir = TempDir::new();
    let data = dir.path().join("new/data");
    let store = Store::open(&data).await.expect("the store opens");
    store.create_input(named("a")).await.expect("created");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    let mut files = 0;
    for entry in fs::read_dir(&data).expect("listable") {
        let path = entry.expect("an entry").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        files += 1;
    }
    assert!(files >= 3, "database, lock and write-ahead log");
}

#[tokio::test]
async fn a_token_says_who_may_watch_what_until_when() {
    let dir = TempDir::new();
    let store = open(&dir).await;
    let (input, _) = store.create_input(named("a")).await.expect("created");
    let key = store.playback_keys().await.expect("read").remove(0);
    let hour = Duration::from_hours(1);
    let minted = store.mint_playback_token(&input.id, hour).await.expect("minted");
    let header = jsonwebtoken::decode_header(minted.token.expose()).expect("a header");
    assert_eq!(header.kid.as_deref(), Some(key.kid.as_str()));
    assert_eq!(header.typ.as_deref(), Some("JWT"));
    assert_eq!(header.alg, jsonwebtoken::Algorithm::EdDSA);
    let claims_of = claims(&minted, &key);
    assert_eq!(claims_of.iss, store.default_org().as_str());
    assert_eq!(key.org.as_str(), claims_of.iss);
    assert_eq!(claims_of.sub, input.id.as_str());
    assert_eq!(claims_of.nbf, claims_of.iat);
    assert_eq!(claims_of.exp - claims_of.iat, 3_600);
    assert_eq!(minted.expires_at.as_secs(), claims_of.exp);
    let again = store.mint_playback_token(&input.id, hour).await.expect("minted");
    assert_ne!(claims(&again, &key).jti, claims_of.jti);
    let nobody = InputId::generate();
    assert!(matches!(store.mint_playback_token(&nobody, hour).await, Err(Error::UnknownInput(_))));
}

#[tokio::test]
async fn the_life_of_a_token_is_clamped() {
    let dir = TempDir::new();
    let store = open(&dir).await;
    let (input, _) = store.create_input(named("a")).await.expect("created");
    let key = store.playback_keys().await.expect("read").remove(0);
    for (asked, given) in [
        (Duration::ZERO, TTL_MIN),
        (Duration::from_secs(29), TTL_MIN),
        (Duration::from_secs(31), Duration::from_secs(31)),
        (Duration::from_secs(86_401), TTL_MAX),
        (Duration::MAX, TTL_MAX),
    ] {
        let minted = store.mint_playback_token(&input.id, asked).await.expect("minted");
        let claims = claims(&minted, &key);
        assert_eq!(claims.exp - claims.iat, given.as_secs(), "{asked:?}");
    }
}

#[tokio::test]
async fn the_newest_active_key_signs_and_a_deactivated_one_is_not_offered() {
    let dir = TempDir::new();
    let store = open(&dir).await;
    let (input, _) = store.create_input(named("a")).await.expect("created");
    let first = store.signing_keys().await.expect("listed").remove(0).kid;
    let second = store.create_signing_key().await.expect("created").kid;
    let minted = store.mint_playback_token(&input.id, TTL_MIN).await.expect("minted");
    assert_eq!(minted.kid, second);
    store.deactivate_signing_key(&second).await.expect("deactivated");
    let offered = store.playback_keys().await.expect("read");
    assert_eq!(offered.iter().map(|key| &key.kid).collect::<Vec<_>>(), [&first]);
    store.deactivate_signing_key(&first).await.expect("deactivated");
    assert!(matches!(
        store.mint_playback_token(&input.id, TTL_MIN).await,
        Err(Error::NoSigningKey)
    ));
    let nobody = SigningKeyId::generate();
    assert!(matches!(
        store.deactivate_signing_key(&nobody).await,
        Err(Error::UnknownSigningKey(_))
    ));
}

#[tokio::test]
async fn a_running_server_notices_keys_made_by_another_process() {
    let dir = TempDir::new();
    let (server, cli) = (open(&dir).await, open(&dir).await);
    let mut seen = server.watch().await.expect("watching");
    assert_eq!(seen.borrow_and_update().playback_keys.len(), 1);
    let kid = cli.create_signing_key().await.expect("created").kid;
    seen.changed().await.expect("the watch goes on");
    let keys = seen.borrow_and_update().playback_keys.clone();
    assert!(keys.iter().any(|key| key.kid == kid));
    // The server's own commits count too.
    server.deactivate_signing_key(&kid).await.expect("deactivated");
    seen.changed().await.expect("the watch goes on");
    assert!(!seen.borrow().playback_keys.iter().any(|key| key.kid == kid));
}

#[tokio::test]
async fn api_keys_open_what_they_were_issued_for_until_replaced() {
    let dir = TempDir::new();
    let store = open(&dir).await;
    let scopes = [Scope::StreamsRead, Scope::StreamsMint];
    let (record, key) = store.issue_api_key("ready", &scopes).await.expect("issued");
    let found = store.verify_api_key(key.expose()).await.expect("it fits");
    assert_eq!(found.id, record.id);
    assert_eq!(found.scopes.iter().collect::<HashSet<_>>(), scopes.iter().collect::<HashSet<_>>());
    assert!(matches!(store.verify_api_key("ak_live_wrong").await, Err(Error::KeyRefused)));
    let (_, next) = store.issue_api_key("ready", &scopes).await.expect("issued");
    assert!(store.verify_api_key(key.expose()).await.is_err());
    assert!(store.verify_api_key(next.expose()).await.is_ok());
}

#[tokio::test]
async fn a_database_of_a_later_version_is_left_alone() {
    let dir = TempDir::new();
    open(&dir).await.close().await;
    let path = dir.path().join(DATABASE_FILE);
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let mut connection =
        sqlx::sqlite::SqliteConnection::connect_with(&options).await.expect("opens");
    sqlx::query("INSERT INTO schema_version VALUES (99)")
        .execute(&mut connection)
        .await
        .expect("writes");
    connection.close().await.expect("closes");
    assert!(matches!(Store::open(dir.path()).await, Err(Error::SchemaTooNew { found: 99, .. })));
}

#[tokio::test]
async fn names_are_checked() {
    let dir = TempDir::new();
    let store = open(&dir).await;
    for bad in ["", "   ", "a\nb", "\u{1b}[31m", &"x".repeat(NAME_CHARS_MAX + 1)] {
        assert!(matches!(store.create_input(named(bad)).await, Err(Error::Name)), "{bad:?}");
    }
    assert!(store.create_input(named("Bühne 1")).await.is_ok());
}

#[test]
fn a_long_credential_is_cut_at_a_character() {
    let text = "ä".repeat(CREDENTIAL_BYTES_MAX);
    assert_eq!(capped(&text).len(), CREDENTIAL_BYTES_MAX);
    let odd = format!("a{text}");
    assert_eq!(capped(&odd).len(), CREDENTIAL_BYTES_MAX - 1);
}

#[tokio::test]
async fn what_is_withdrawn_is_listed_once_and_withdrawing_again_does_no_harm() {
    let dir = TempDir::new();
    let store = open(&dir).await;
    let org = store.default_org().clone();
    let (input, _) = store.create_input(named("Stage")).await.expect("created");
    let minted = store.mint_viewer_token(&input.id, Some("anna"), TTL_MIN).await.expect("minted");
    let keys = store.playback_keys().await.expect("listed");
    assert_eq!(claims(&minted, &keys[0]).vid.as_deref(), Some("anna"));
    assert_eq!(claims(&minted, &keys[0]).jti, minted.jti);
    let (first, is_new) = store.revoke_token(&org, minted.token.expose()).await.expect("revoked");
    assert!(is_new && first.what == Withdraw::Token(minted.jti.clone()), "{first:?}");
    let again = store.revoke(&org, Withdraw::Token(minted.jti)).await.expect("revoked");
    assert_eq!(again, (first, false));
    for what in [Withdraw::Viewer("anna".into()), Withdraw::Version(2)] {
        let (_, is_new) = store.revoke(&org, what.clone()).await.expect("revoked");
        assert!(is_new);
        assert!(!store.revoke(&org, what).await.expect("revoked").1);
    }
    let listed = store.revocations(&org, None, 100).await.expect("listed");
    let kinds: Vec<_> = listed.iter().map(|one| one.what.kind()).collect();
    assert_eq!(kinds, ["jti", "ver", "vid"]);
    let page = store.revocations(&org, Some(("jti", &listed[0].what.value())), 1).await;
    assert_eq!(page.expect("listed"), listed[1..2]);
    let elsewhere = store.revocations(&OrgId::generate(), None, 100).await.expect("listed");
    assert!(elsewhere.is_empty(), "another organisation sees none of it");
    let long = "v".repeat(129);
    for bad in ["", "a\nb", &long] {
        let refused = store.revoke(&org, Withdraw::Viewer(bad.to_owned())).await;
        assert!(matches!(refused, Err(Error::Claim)), "{bad}");
        let refused = store.mint_viewer_token(&input.id, Some(bad), TTL_MIN).await;
        assert!(matches!(refused, Err(Error::Claim)), "{bad}");
    }
}

#[tokio::test]
async fn withdrawing_a_key_deactivates_it_and_is_told_to_relays() {
    let dir = TempDir::new();
    let store = open(&dir).await;
    let watching = open(&dir).await.watch().await.expect("watching");
    let kid = store.signing_keys().await.expect("listed")[0].kid.clone();
    store.deactivate_signing_key(&kid).await.expect("deactivated");
    let mut watching = watching;
    watching.changed().await.expect("seen");
    let seen = watching.borrow_and_update().clone();
    assert!(seen.playback_keys.is_empty());
    assert_eq!(seen.revocations.len(), 1);
    assert_eq!(seen.revocations[0].what, Withdraw::Key(kid));
    let nobody = Withdraw::Key(SigningKeyId::generate());
    let refused = store.revoke(store.default_org(), nobody).await;
    assert!(matches!(refused, Err(Error::UnknownSigningKey(_))));
}

#[tokio::test]
async fn revocations_are_bounded_and_forgotten_when_the_last_token_has_ended() {
    let dir = TempDir::new();
    let store = open(&dir).await;
    let org = store.default_org().clone();
    let (kept, _) = store.revoke(&org, Withdraw::Viewer("anna".into())).await.expect("revoked");
    let life = kept.until.as_millis() - kept.revoked_at.as_millis();
    assert!(life >= TTL_MAX.as_millis() as i64, "outlives every token");
    let path = dir.path().join(DATABASE_FILE);
    let mut sqlite = sqlx::SqliteConnection::connect(&format!("sqlite://{}", path.display()))
        .await
        .expect("opens");
    sqlx::query(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?2) \
         INSERT INTO revocations SELECT ?1, 'jti', 'j' || i, 0, ?3 FROM n",
    )
    .bind(org.as_str())
    .bind(crate::REVOCATIONS_MAX as i64 - 1)
    .bind(kept.until.as_millis())
    .execute(&mut sqlite)
    .await
    .expect("filled");
    let full = store.revoke(&org, Withdraw::Viewer("bert".into())).await;
    assert!(matches!(full, Err(Error::RevocationsFull)));
    assert!(store.revoke(&org, Withdraw::Viewer("anna".into())).await.is_ok(), "there already");
    let over = "UPDATE revocations SET until = 1 WHERE kind = 'jti'";
    sqlx::query(over).execute(&mut sqlite).await.expect("aged");
    assert_eq!(store.revocations(&org, None, 100).await.expect("listed").len(), 1);
    assert!(store.revoke(&org, Withdraw::Viewer("bert".into())).await.is_ok());
    let rows: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM revocations")
        .fetch_one(&mut sqlite)
        .await
        .expect("counted");
    assert_eq!(rows, 2, "what is over is gone");
}

#[tokio::test]
async fn a_passphrase_is_sealed_and_opens_for_its_input_alone() {
    let dir = TempDir::new();
    let store = open(&dir).await;
    let (one, _) = store.create_input(NewInput::new("one", Ingest::Srt)).await.unwrap();
    let (other, _) = store.create_input(NewInput::new("other", Ingest::Srt)).await.unwrap();
    assert_eq!(store.srt_secret(&one.id).await.unwrap(), None);
    let passphrase = Passphrase::parse("correct-horse-battery").unwrap();
    let secret = SrtSecret { passphrase, key_bytes: 32 };
    store.set_srt_secret(&one.id, Some(&secret)).await.unwrap();
    store.set_srt_secret(&other.id, Some(&secret)).await.unwrap();
    assert_eq!(open(&dir).await.srt_secret(&one.id).await.unwrap(), Some(secret.clone()));
    assert!(!format!("{secret:?}").contains("horse"));
    // Not in any file of the directory, and the key only readable by us.
    for file in fs::read_dir(dir.path()).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(13).any(|window| window == b"correct-horse"));
    }
    let key_file = dir.path().join(SEALING_FILE);
    assert_eq!(fs::metadata(&key_file).unwrap().permissions().mode() & 0o777, 0o600);
    // Removed, and refused for inputs that are not there.
    store.set_srt_secret(&other.id, None).await.unwrap();
    assert_eq!(store.srt_secret(&other.id).await.unwrap(), None);
    let nobody = InputId::generate();
    let unknown = store.set_srt_secret(&nobody, Some(&secret)).await;
    assert!(matches!(unknown, Err(Error::UnknownInput(_))));
    // Another key opens nothing, and says so.
    fs::write(&key_file, [7; 32]).unwrap();
    assert!(matches!(store.srt_secret(&one.id).await, Err(Error::Sealing)));
}

#[test]
fn passphrases_are_what_srt_and_an_address_take() {
    for good in ["0123456789", "a-b.c_d~e0", &"x".repeat(79)] {
        assert!(Passphrase::parse(good).is_some(), "{good}");
    }
    for bad in ["012345678", &"x".repeat(80), "has a blank here", "with&more=things", ""] {
        assert!(Passphrase::parse(bad).is_none(), "{bad}");
    }
    assert_eq!(Passphrase::generate().expose().len(), 32);
}
