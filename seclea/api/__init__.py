"""The wire: sessions, tokens and the portal's interface. Knows nothing of queues, ledgers and processes."""
