"""The home's ledger (sqlite) and spool (payload chunks): what is durable."""
