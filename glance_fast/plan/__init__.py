"""Which cells of the network are distinct for all patches at once, decided before any image is seen; numpy only."""
