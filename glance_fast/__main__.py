"""`python -m glance_fast`: the same as the command `glance-fast`."""

from glance_fast.cli import main

if __name__ == "__main__":
    main()
