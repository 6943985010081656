"""The sender: from the ledger to the portal, with patience."""
