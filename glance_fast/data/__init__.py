"""Images and data folders: reading, checking, resizing, batches, prefetching, and what threads borrow."""
