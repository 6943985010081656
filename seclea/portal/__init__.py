"""The portal: what seclea sends to, and where people look. ``python -m seclea.portal``, or ``seclea portal``.

Rule 1  A 201 is sent after the commit (FULL) and after the fsync of every blob that the row names.
Rule 2  Idempotency, place in the stream and effect are one transaction (`intake`).
Rule 3  Everything is scoped to the caller's organisations; what is not theirs does not exist (404).
Rule 4  Nothing that was received is run, unpickled, or used as a path. Blobs are named by their sha256.

Needs the extra ``seclea[portal]``. Importing this package loads none of it.
"""
