-- Policies of the project for its nodes. `applies_to` is an expression about the attributes of a node; empty: for all of them.
DROP TABLE policies;
CREATE TABLE policies (
    resource_type TEXT NOT NULL,
    applies_to    TEXT NOT NULL,
    expression    TEXT NOT NULL,
    PRIMARY KEY (resource_type, applies_to)
) STRICT, WITHOUT ROWID;
