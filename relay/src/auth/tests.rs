use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};

use super::*;

const WALL: u64 = 1_800_000_000;
const LEEWAY: Duration = Duration::from_secs(5);

fn signer() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn keys() -> KeySet {
    let mut keys = KeySet::new();
    keys.insert_ed25519("sgk_1", signer().verifying_key().as_bytes(), "org_a");
    keys
}

fn header() -> Value {
    json!({"alg": "EdDSA", "typ": "JWT", "kid": "sgk_1"})
}

fn claims() -> Value {
    json!({
        "iss": "org_a", "sub": "lv_1", "aud": "playback", "iat": WALL - 10, "nbf": WALL - 10,
        "exp": WALL + 3600, "jti": "j1", "vid": "viewer",
    })
}

/// Signs whatever it is given: hostile tokens have good signatures too.
fn token(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = signer().sign(message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
}

fn with(mut value: Value, field: &str, new: Value) -> Value {
    value[field] = new;
    value
}

fn without(mut value: Value, field: &str) -> Value {
    value.as_object_mut().unwrap().remove(field);
    value
}

fn check(token: &str) -> Result<Grant, AuthError> {
    verify(token, &keys(), Duration::from_secs(WALL), LEEWAY)
}

fn check_claims(claims: &Value) -> Result<Grant, AuthError> {
    check(&token(&header(), claims))
}

fn check_header(header: &Value) -> Result<Grant, AuthError> {
    check(&token(header, &claims()))
}

#[test]
fn a_good_token_opens_one_broadcast_of_its_keys_organisation() {
    let grant = check(&token(&header(), &claims())).unwrap();
    assert_eq!((&*grant.org, &*grant.sub, &*grant.kid), ("org_a", "lv_1", "sgk_1"));
    assert_eq!(grant.jti.as_deref(), Some("j1"));
    assert_eq!(grant.vid.as_deref(), Some("viewer"));
    assert_eq!(grant.expires_at, Duration::from_secs(WALL + 3600));
    let several = with(claims(), "aud", json!(["api", "playback"]));
    assert!(check_claims(&several).is_ok());
    assert!(check_claims(&without(without(claims(), "nbf"), "iss")).is_ok());
}

#[test]
fn h44_alg_none_is_refused_with_and_without_signature() {
    for alg in ["none", "None", "NONE", ""] {
        let header = with(header(), "alg", json!(alg));
        assert_eq!(check_header(&header), Err(AuthError::Algorithm), "{alg}");
        let token = token(&header, &claims());
        let (message, _) = token.rsplit_once('.').unwrap();
        assert_eq!(check(&format!("{message}.")), Err(AuthError::Algorithm), "{alg}");
    }
}

#[test]
fn h44_a_public_key_used_as_hmac_secret_is_refused() {
    let secret = jsonwebtoken::EncodingKey::from_secret(signer().verifying_key().as_bytes());
    for alg in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let mut header = jsonwebtoken::Header::new(alg);
        header.kid = Some("sgk_1".into());
        let token = jsonwebtoken::encode(&header, &claims(), &secret).unwrap();
        assert_eq!(check(&token), Err(AuthError::Algorithm));
    }
}

#[test]
fn h44_the_algorithm_is_the_keys_and_never_the_tokens() {
    for alg in ["RS256", "ES256", "HS256", "PS512", "eddsa", "Ed25519"] {
        let header = with(header(), "alg", json!(alg));
        assert_eq!(check_header(&header), Err(AuthError::Algorithm), "{alg}");
    }
    // An HMAC key does verify tokens that say so: the pin works in both directions.
    let mut keys = KeySet::new();
    let key = DecodingKey::from_secret(b"a shared secret of one customer!");
    let org = "org_a".to_owned();
    keys.insert("h", VerifyingKey { algorithm: Algorithm::HS256, key, org });
    let secret = jsonwebtoken::EncodingKey::from_secret(b"a shared secret of one customer!");
    let mut header = jsonwebtoken::Header::new(Algorithm::HS256);
    header.kid = Some("h".into());
    let token = jsonwebtoken::encode(&header, &claims(), &secret).unwrap();
    assert!(verify(&token, &keys, Duration::from_secs(WALL), LEEWAY).is_ok());
}

#[test]
fn h44_kid_is_only_a_map_key() {
    for kid in ["../../x", "/etc/passwd", "sgk_1\0", "http://evil.example/k", "", "SGK_1", "sgk_2"]
    {
        let header = with(header(), "kid", json!(kid));
        assert_eq!(check_header(&header), Err(AuthError::UnknownKey), "{kid}");
    }
    assert_eq!(check_header(&without(header(), "kid")), Err(AuthError::UnknownKey));
    assert_eq!(check_header(&with(header(), "kid", json!(7))), Err(AuthError::Malformed));
}

#[test]
fn h44_headers_that_carry_or_name_a_key_are_refused() {
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"});
    let cases = [
        ("jku", json!("http://evil.example/keys")),
        ("jku", Value::Null),
        ("jwk", jwk),
        ("x5u", json!("http://evil.example/cert")),
        ("x5c", json!(["MII"])),
        ("crit", json!(["b64"])),
    ];
    for (field, value) in cases {
        assert_eq!(check_header(&with(header(), field, value)), Err(AuthError::Header), "{field}");
    }
    assert_eq!(check_header(&with(header(), "typ", json!("at+jwt"))), Err(AuthError::Header));
}

#[test]
fn h44_a_wrong_signature_or_key_is_refused() {
    let good = token(&header(), &claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let other = SigningKey::from_bytes(&[8; 32]).sign(message.as_bytes()).to_bytes();
    let other = URL_SAFE_NO_PAD.encode(other);
    for signature in [&other[..], "", "AAAA", "!!!!", &signature[1..]] {
        assert_eq!(check(&format!("{message}.{signature}")), Err(AuthError::Signature));
    }
    let swapped = token(&header(), &with(claims(), "sub", json!("lv_2")));
    let (swapped, _) = swapped.rsplit_once('.').unwrap();
    assert_eq!(check(&format!("{swapped}.{signature}")), Err(AuthError::Signature));
}

#[test]
fn h44_times_are_held_to_the_clock_and_the_clamp() {
    let cases = [
        ("exp long past", WALL - 7200, WALL - 3600, None, Err(AuthError::Expired)),
        ("exp just past the leeway", WALL - 60, WALL - 5, None, Err(AuthError::Expired)),
        ("exp within the leeway", WALL - 60, WALL - 4, None, Ok(())),
        ("year 2100", WALL, 4_102_444_800, None, Err(AuthError::Lifetime)),
        ("far overflow", WALL, u64::MAX, None, Err(AuthError::Lifetime)),
        ("24 h and a second", WALL, WALL + 86_401, None, Err(AuthError::Lifetime)),
        ("24 h", WALL, WALL + 86_400, None, Ok(())),
        ("29 s", WALL, WALL + 29, None, Err(AuthError::Lifetime)),
        ("30 s", WALL, WALL + 30, None, Ok(())),
        ("exp before iat", WALL, WALL - 1, None, Err(AuthError::Lifetime)),
        ("minted in the future", WALL + 6, WALL + 3600, None, Err(AuthError::NotYetValid)),
        ("minted a little ahead", WALL + 5, WALL + 3600, None, Ok(())),
        ("nbf ahead", WALL, WALL + 3600, Some(WALL + 6), Err(AuthError::NotYetValid)),
        ("nbf within the leeway", WALL, WALL + 3600, Some(WALL + 5), Ok(())),
    ];
    for (name, iat, exp, nbf, expected) in cases {
        let mut claims = without(claims(), "nbf");
        claims["iat"] = json!(iat);
        claims["exp"] = json!(exp);
        if let Some(nbf) = nbf {
            claims["nbf"] = json!(nbf);
        }
        assert_eq!(check_claims(&claims).map(|_| ()), expected, "{name}");
    }
    for field in ["exp", "iat"] {
        assert_eq!(check_claims(&without(claims(), field)), Err(AuthError::Malformed), "{field}");
        for bad in [json!(-1), json!(1e300), json!("1800003600"), json!(1.5), Value::Null] {
            let claims = with(claims(), field, bad);
            assert_eq!(check_claims(&claims), Err(AuthError::Malformed), "{field}");
        }
    }
}

#[test]
fn leeway_is_never_more_than_a_minute() {
    let mut claims = claims();
    claims["iat"] = json!(WALL - 3600);
    claims["exp"] = json!(WALL - 61);
    let token = token(&header(), &claims);
    let hour = Duration::from_hours(1);
    assert_eq!(verify(&token, &keys(), Duration::from_secs(WALL), hour), Err(AuthError::Expired));
}

#[test]
fn audience_issuer_and_subject_must_fit() {
    for aud in [json!("api"), json!([]), json!(["x"])] {
        assert_eq!(check_claims(&with(claims(), "aud", aud)), Err(AuthError::Audience));
    }
    assert_eq!(check_claims(&without(claims(), "aud")), Err(AuthError::Malformed));
    assert_eq!(check_claims(&with(claims(), "iss", json!("org_b"))), Err(AuthError::Issuer));
    assert_eq!(check_claims(&with(claims(), "sub", json!(""))), Err(AuthError::Malformed));
    assert_eq!(check_claims(&without(claims(), "sub")), Err(AuthError::Malformed));
    let long = "x".repeat(129);
    assert_eq!(check_claims(&with(claims(), "sub", json!(long))), Err(AuthError::Malformed));
}

#[test]
fn h44_a_megabyte_is_refused_by_its_length() {
    let header = with(header(), "kid", json!("k".repeat(1 << 20)));
    assert_eq!(check_header(&header), Err(AuthError::TooLarge));
    assert_eq!(check(&"a".repeat(TOKEN_BYTES_MAX + 1)), Err(AuthError::TooLarge));
    assert_eq!(check(&"a".repeat(TOKEN_BYTES_MAX)), Err(AuthError::Malformed));
}

#[test]
fn what_is_not_a_token_is_malformed() {
    assert_eq!(check(""), Err(AuthError::Missing));
    for text in [".", "..", "...", "a.b", "a.b.c", "a.b.c.d", "{}.{}.{}", "é.é.é"] {
        assert_eq!(check(text), Err(AuthError::Malformed), "{text}");
    }
    let deep = "[".repeat(3000);
    let deep = URL_SAFE_NO_PAD.encode(format!("{{\"alg\":{deep}"));
    assert_eq!(check(&format!("{deep}.a.a")), Err(AuthError::Malformed));
}

fn revocation(subject: Subject) -> Revocation {
    Revocation { org: "org_a".into(), subject, at: WALL - 10, until: WALL + 86_400 }
}

#[test]
fn a_withdrawn_key_or_token_id_opens_nothing_and_upholds_nothing() {
    let token = token(&header(), &with(claims(), "ver", json!(2)));
    let wall = Duration::from_secs(WALL);
    let grant = verify(&token, &keys(), wall, LEEWAY).unwrap();
    assert!(keys().upholds(&grant));
    for subject in [
        Subject::Token("j1".into()),
        Subject::Viewer("viewer".into()),
        Subject::Key("sgk_1".into()),
        Subject::Version(3),
    ] {
        let mut keys = keys();
        keys.revoke(&revocation(subject.clone()));
        assert!(!keys.upholds(&grant), "{subject:?}");
        assert_eq!(verify(&token, &keys, wall, LEEWAY), Err(AuthError::Revoked), "{subject:?}");
    }
    assert!(!KeySet::new().upholds(&grant));
    assert_eq!(verify(&token, &KeySet::new(), wall, LEEWAY), Err(AuthError::UnknownKey));
}

#[test]
fn a_revocation_reaches_no_further_than_it_says() {
    let token = token(&header(), &with(claims(), "ver", json!(2)));
    let wall = Duration::from_secs(WALL);
    let mut elsewhere = revocation(Subject::Token("j1".into()));
    elsewhere.org = "org_b".into();
    let mut earlier = revocation(Subject::Viewer("viewer".into()));
    earlier.at -= 1;
    for revocation in [
        elsewhere,
        earlier,
        revocation(Subject::Token("j2".into())),
        revocation(Subject::Viewer("j1".into())),
        revocation(Subject::Key("sgk_2".into())),
        revocation(Subject::Version(2)),
    ] {
        let mut keys = keys();
        keys.revoke(&revocation);
        assert!(verify(&token, &keys, wall, LEEWAY).is_ok(), "{revocation:?}");
    }
}

#[test]
fn every_error_has_its_own_label_and_counter() {
    let mut labels: Vec<_> = AuthError::ALL.iter().map(|error| error.label()).collect();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), AuthError::COUNT);
    for (position, error) in AuthError::ALL.iter().enumerate() {
        assert_eq!(error.index(), position);
    }
}
