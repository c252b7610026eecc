-- Keys by which relays of ours are let in below this engine: keyed hashes only.
CREATE TABLE node_keys (
    id         TEXT    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL,
    key_hash   BLOB    NOT NULL UNIQUE,
    active     INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
