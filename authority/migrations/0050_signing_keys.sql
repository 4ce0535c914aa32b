-- By which key of the ring the credential was signed: a key is retired once every node has credentials by another.
ALTER TABLE credentials ADD COLUMN signing_key BLOB CHECK (length(signing_key) = 8);
