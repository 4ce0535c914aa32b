-- Members whose membership was ended. They stand apart, so that nothing that asks for members finds them. `epoch`: of the project when
-- it happened; only tickets issued since let the identity in again. `hidden`: deleted, so not listed.
CREATE TABLE revoked_members (
    identifier  BLOB    PRIMARY KEY CHECK (length(identifier) = 32),
    name        TEXT    NOT NULL,
    attributes  TEXT    NOT NULL,
    relays      TEXT    NOT NULL,
    role        TEXT    NOT NULL,
    attested_by BLOB    NOT NULL CHECK (length(attested_by) = 32),
    added_at    INTEGER NOT NULL,
    history     BLOB    NOT NULL,
    revoked_at  INTEGER NOT NULL,
    epoch       INTEGER NOT NULL,
    hidden      INTEGER NOT NULL CHECK (hidden IN (0, 1))
) STRICT, WITHOUT ROWID;

-- When the entry was made, and whether it is never forgotten: those of revoked members, and of revoked ones that were admitted again,
-- which everybody must hear of who heard of the revocation. A `not_before` of 2^63 - 1 is for ever.
ALTER TABLE voided ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE voided ADD COLUMN kept INTEGER NOT NULL DEFAULT 0 CHECK (kept IN (0, 1));
CREATE INDEX voided_epoch ON voided (epoch);

-- The project's epoch when the ticket was issued.
ALTER TABLE tickets ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
