"""Images and data folders: reading, checking, resizing, prefetching."""
