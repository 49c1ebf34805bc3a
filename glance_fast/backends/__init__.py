"""The backends, which run the networks, one per file; `registry` makes the requested backend."""
