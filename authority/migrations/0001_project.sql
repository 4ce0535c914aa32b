-- The authority's database. It holds no secret: of a ticket's secret only the SHA-256, of keys only public halves.
-- Identifiers and keys are blobs of their exact length; times are seconds since the Unix epoch; structured values are JSON.

CREATE TABLE project (
    singleton  INTEGER PRIMARY KEY CHECK (singleton = 1),
    id         BLOB    NOT NULL CHECK (length(id) = 16),
    name       TEXT    NOT NULL,
    authority  BLOB    NOT NULL CHECK (length(authority) = 32),
    static_key BLOB    NOT NULL CHECK (length(static_key) = 32),
    addresses  TEXT    NOT NULL,
    key_ring   TEXT    NOT NULL,
    sequence   INTEGER NOT NULL,
    epoch      INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE members (
    identifier       BLOB    PRIMARY KEY CHECK (length(identifier) = 32),
    name             TEXT    NOT NULL,
    attributes       TEXT    NOT NULL,
    relays           TEXT    NOT NULL,
    role             TEXT    NOT NULL,
    is_administrator INTEGER NOT NULL CHECK (is_administrator IN (0, 1)),
    attested_by      BLOB    NOT NULL CHECK (length(attested_by) = 32),
    added_at         INTEGER NOT NULL,
    history          BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX members_attested_by ON members (attested_by, identifier);

CREATE TABLE tickets (
    id          BLOB    PRIMARY KEY CHECK (length(id) = 16),
    secret_hash BLOB    NOT NULL CHECK (length(secret_hash) = 32),
    issued_by   BLOB    NOT NULL CHECK (length(issued_by) = 32),
    issued_at   INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    uses        INTEGER NOT NULL DEFAULT 0,
    max_uses    INTEGER NOT NULL CHECK (max_uses > 0),
    revoked     INTEGER NOT NULL DEFAULT 0 CHECK (revoked IN (0, 1)),
    attributes  TEXT    NOT NULL,
    relays      TEXT    NOT NULL,
    role        TEXT    NOT NULL,
    CHECK (uses BETWEEN 0 AND max_uses)
) STRICT, WITHOUT ROWID;
CREATE INDEX tickets_issued_by ON tickets (issued_by, id);

-- Kept when the member is deleted: a use is never given back, and a removed member cannot come back with the same ticket.
CREATE TABLE ticket_uses (
    ticket BLOB    NOT NULL REFERENCES tickets (id),
    member BLOB    NOT NULL CHECK (length(member) = 32),
    at     INTEGER NOT NULL,
    PRIMARY KEY (ticket, member)
) STRICT, WITHOUT ROWID;

-- Who may register a relay name. `claimed`: taken by a member that may have any name, and given back when it releases it.
CREATE TABLE relay_names (
    name       TEXT    NOT NULL,
    member     BLOB    NOT NULL REFERENCES members (identifier) ON DELETE CASCADE,
    exclusive  INTEGER NOT NULL CHECK (exclusive IN (0, 1)),
    claimed    INTEGER NOT NULL CHECK (claimed IN (0, 1)),
    granted_at INTEGER NOT NULL,
    PRIMARY KEY (name, member)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX relay_names_exclusive ON relay_names (name) WHERE exclusive = 1;
CREATE INDEX relay_names_member ON relay_names (member);

CREATE TABLE relays (
    member     BLOB PRIMARY KEY REFERENCES members (identifier) ON DELETE CASCADE,
    static_key BLOB NOT NULL CHECK (length(static_key) = 32),
    address    TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE credentials (
    id         BLOB    PRIMARY KEY CHECK (length(id) = 16),
    member     BLOB    NOT NULL REFERENCES members (identifier) ON DELETE CASCADE,
    static_key BLOB    NOT NULL CHECK (length(static_key) = 32),
    audience   TEXT    NOT NULL CHECK (audience IN ('member', 'relay')),
    issued_at  INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX credentials_member ON credentials (member, expires_at);
CREATE INDEX credentials_expires_at ON credentials (expires_at);

-- Credentials of `member` that were valid before `not_before` are void.
CREATE TABLE voided (
    member     BLOB    PRIMARY KEY CHECK (length(member) = 32),
    not_before INTEGER NOT NULL,
    voided_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE policies (
    resource_type TEXT PRIMARY KEY,
    expression    TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- AUTOINCREMENT: a number is never given twice, so a missing row shows.
CREATE TABLE audit (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    actor   TEXT    NOT NULL,
    action  TEXT    NOT NULL,
    subject TEXT    NOT NULL,
    result  TEXT    NOT NULL CHECK (result IN ('ok', 'refused')),
    reason  TEXT    NOT NULL
) STRICT;

CREATE TRIGGER audit_keeps_rows BEFORE DELETE ON audit BEGIN SELECT RAISE (ABORT, 'audit rows are never deleted'); END;
CREATE TRIGGER audit_keeps_text BEFORE UPDATE ON audit BEGIN SELECT RAISE (ABORT, 'audit rows are never changed'); END;
