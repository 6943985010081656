-- Thinning: completed rows are found without reading the others; so is what stands for a row (a foreign key).

CREATE INDEX records_delivered ON records (id, settled_ns)
    WHERE status = 'Completed' AND kind IN ('metrics', 'tombstone') AND stands_for IS NULL
    AND receipt <> '{"local_only":true}';
CREATE INDEX records_kept_here ON records (id, settled_ns)
    WHERE status = 'Completed' AND kind IN ('metrics', 'tombstone') AND stands_for IS NULL
    AND receipt = '{"local_only":true}';
CREATE INDEX records_sent_again ON records (sent_again) WHERE sent_again IS NOT NULL;
