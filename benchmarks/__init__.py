"""Benchmarks: one file per question. Numbers inform; they do not gate a build."""
