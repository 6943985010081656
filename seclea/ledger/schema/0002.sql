-- Lineage: a dataset is found by the table that it holds, whatever its roles and label, and a step by what it is.

ALTER TABLE entities ADD COLUMN content TEXT; -- of a dataset: content digest
UPDATE entities SET content = digest WHERE kind = 'dataset';
CREATE INDEX entities_content ON entities (project, content) WHERE content IS NOT NULL AND same_as IS NULL;
CREATE INDEX entities_digest ON entities (project, kind, digest) WHERE digest IS NOT NULL AND same_as IS NULL;
CREATE INDEX entities_name ON entities (project, kind, name) WHERE project IS NOT NULL;
CREATE INDEX entities_refused ON entities (kind) WHERE refused = 1;
