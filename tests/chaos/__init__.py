"""The chaos harness: real processes, real kills, and a referee that shares nothing with the library."""
