"""What the commands of `glance-fast` do, and how they print it."""
