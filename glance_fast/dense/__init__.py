"""Global-Net for every patch in one pass over a plan, and the per-patch loop that it is held to."""
