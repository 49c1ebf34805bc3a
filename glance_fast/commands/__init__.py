"""The work behind the commands of `glance-fast`, and the tables that they print."""
