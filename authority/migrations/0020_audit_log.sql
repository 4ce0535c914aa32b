-- The audit becomes a log that cannot be rewritten: rows that name the hash of the row before them, and a Merkle tree over the
-- hashes (docs/protocol/audit.md). What the first form of the table holds has no hashes and is not taken over: no version with it was
-- released.
DROP TABLE audit;

-- AUTOINCREMENT: a number is never given twice, so that rows that were cut off at the end are missed.
CREATE TABLE audit (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    at       INTEGER NOT NULL,
    actor    TEXT    NOT NULL,
    action   TEXT    NOT NULL,
    subject  TEXT    NOT NULL,
    result   TEXT    NOT NULL CHECK (result IN ('ok', 'refused')),
    reason   TEXT    NOT NULL,
    before   TEXT,
    after    TEXT,
    previous BLOB    NOT NULL CHECK (length(previous) = 32),
    hash     BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT;

-- Complete subtrees of two leaves and more; the leaves are the hashes of the rows.
CREATE TABLE audit_nodes (
    level    INTEGER NOT NULL CHECK (level > 0),
    position INTEGER NOT NULL,
    hash     BLOB    NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (level, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit_checkpoints (
    size      INTEGER PRIMARY KEY,
    at        INTEGER NOT NULL,
    statement BLOB    NOT NULL
) STRICT;

CREATE TRIGGER audit_keeps_rows BEFORE DELETE ON audit BEGIN SELECT RAISE (ABORT, 'audit rows are never deleted'); END;
CREATE TRIGGER audit_keeps_text BEFORE UPDATE ON audit BEGIN SELECT RAISE (ABORT, 'audit rows are never changed'); END;
CREATE TRIGGER audit_nodes_stay BEFORE DELETE ON audit_nodes BEGIN SELECT RAISE (ABORT, 'audit hashes are never deleted'); END;
CREATE TRIGGER audit_nodes_keep BEFORE UPDATE ON audit_nodes BEGIN SELECT RAISE (ABORT, 'audit hashes are never changed'); END;
CREATE TRIGGER audit_checkpoints_stay BEFORE DELETE ON audit_checkpoints BEGIN SELECT RAISE (ABORT, 'audit checkpoints are never deleted'); END;
CREATE TRIGGER audit_checkpoints_keep BEFORE UPDATE ON audit_checkpoints BEGIN SELECT RAISE (ABORT, 'audit checkpoints are never changed'); END;
