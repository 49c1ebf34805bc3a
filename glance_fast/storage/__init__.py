"""What is written to disk: model folders and exports, each file whole and checked."""
