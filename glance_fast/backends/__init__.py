"""What runs the networks, one backend a file; `registry` makes the one that is asked for."""
