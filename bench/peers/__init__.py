"""The methods that ours are compared with."""
