-- How publishers of an input follow each other.
ALTER TABLE live_inputs ADD COLUMN policy TEXT NOT NULL DEFAULT 'refuse';
ALTER TABLE live_inputs ADD COLUMN reconnect_window_s INTEGER NOT NULL DEFAULT 30;

-- What the node last said of an input; none: nothing has happened yet. `health` is JSON.
CREATE TABLE input_states (
    input_id    TEXT    NOT NULL PRIMARY KEY REFERENCES live_inputs (id) ON DELETE CASCADE,
    state       TEXT    NOT NULL,
    reason      TEXT,
    protocol    TEXT,
    since       INTEGER NOT NULL,
    health      TEXT,
    measured_at INTEGER
) STRICT;
