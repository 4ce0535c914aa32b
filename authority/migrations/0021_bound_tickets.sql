-- Whom a ticket is for, as JSON; NULL for whoever has it.
ALTER TABLE tickets ADD COLUMN bound TEXT;
