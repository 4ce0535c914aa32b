-- The static key that a relay server shows next: it answers to it already.
ALTER TABLE relays ADD COLUMN next_static BLOB CHECK (length(next_static) = 32);
