-- Passphrases of SRT inputs. SRT derives its keys from the clear text, so it is sealed and not hashed: a nonce of 12
-- bytes, then AES-256-GCM under a key that is in a file beside this database and not in it.
CREATE TABLE srt_passphrases (
    input_id  TEXT    NOT NULL PRIMARY KEY REFERENCES live_inputs (id) ON DELETE CASCADE,
    key_bytes INTEGER NOT NULL,
    sealed    BLOB    NOT NULL
) STRICT;
