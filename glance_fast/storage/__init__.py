"""Model folders and exports on disk: written atomically, checked by hash when read; the self-check's file."""
