-- What is sent again: after the portal lost it, or after a person asked for it.

ALTER TABLE records ADD COLUMN reopened_ns INTEGER; -- an open record that was settled before; a receipt in it: delivered, and lost there
ALTER TABLE records ADD COLUMN sent_again INTEGER REFERENCES records (id); -- of a failed one: the record that goes in its stead
-- Bodies of delivered metrics that are kept for a portal that loses them; oldest first, and how much they are.
CREATE INDEX records_bodies ON records (id, size)
    WHERE kind = 'metrics' AND status = 'Completed' AND body IS NOT NULL;
CREATE INDEX records_stones ON records (stands_for) WHERE stands_for IS NOT NULL;
