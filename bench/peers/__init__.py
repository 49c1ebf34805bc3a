"""The methods that ours are compared with: `networks` for time, `methods` for accuracy."""
