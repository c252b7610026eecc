-- What was withdrawn before its time: the token with a jti, the tokens of a viewer (vid) issued up
-- to then, of a key (kid), or below a version (ver). A row means nothing after `until`, when the
-- last token it is about has ended anyway.
CREATE TABLE revocations (
    org_id     TEXT    NOT NULL REFERENCES orgs (id),
    kind       TEXT    NOT NULL,
    value      TEXT    NOT NULL,
    revoked_at INTEGER NOT NULL,
    until      INTEGER NOT NULL,
    PRIMARY KEY (org_id, kind, value)
) STRICT;
CREATE INDEX revocations_by_until ON revocations (until);
