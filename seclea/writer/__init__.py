"""The writer process: rings in, ledger and spool, work out to the sender. ``python -m seclea.writer --home DIR``."""
