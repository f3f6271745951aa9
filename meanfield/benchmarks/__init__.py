"""Benchmarks of an engine against its peers: `cases` says what is timed, `run` times it, `report` prints it."""
