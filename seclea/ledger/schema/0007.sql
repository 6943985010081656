-- Failed and held records that a person has seen and lets be (`seclea dismiss`): kept, and no longer told as trouble.

ALTER TABLE records ADD COLUMN dismissed_ns INTEGER;
