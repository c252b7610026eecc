-- Organisations own everything else. Times are Unix milliseconds.
CREATE TABLE orgs (
    id         TEXT    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- Secrets of the server itself: the key under which other secrets are hashed, the decoy hash for
-- inputs that do not exist, the key that hides which shard a connection id names.
CREATE TABLE server_secrets (
    name       TEXT    NOT NULL PRIMARY KEY,
    value      BLOB    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE live_inputs (
    id             TEXT    NOT NULL PRIMARY KEY,
    org_id         TEXT    NOT NULL REFERENCES orgs (id),
    name           TEXT    NOT NULL,
    ingest         TEXT    NOT NULL,
    key_hash       BLOB    NOT NULL,
    created_at     INTEGER NOT NULL,
    key_rotated_at INTEGER
) STRICT;
CREATE INDEX live_inputs_by_org ON live_inputs (org_id, id);

CREATE TABLE signing_keys (
    kid           TEXT    NOT NULL PRIMARY KEY,
    org_id        TEXT    NOT NULL REFERENCES orgs (id),
    alg           TEXT    NOT NULL,
    private_pkcs8 BLOB    NOT NULL,
    public_key    BLOB    NOT NULL,
    active        INTEGER NOT NULL,
    created_at    INTEGER NOT NULL
) STRICT;
CREATE INDEX signing_keys_by_org ON signing_keys (org_id, kid);

CREATE TABLE api_keys (
    id         TEXT    NOT NULL PRIMARY KEY,
    org_id     TEXT    NOT NULL REFERENCES orgs (id),
    name       TEXT    NOT NULL,
    key_hash   BLOB    NOT NULL UNIQUE,
    scopes     TEXT    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
