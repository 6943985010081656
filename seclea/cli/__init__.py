"""The ``seclea`` command."""
