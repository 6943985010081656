"""Outliving the parent: starting detached processes, finding them again, knowing who lives."""
