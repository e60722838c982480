"""A run by torch's own torchrun on each node."""
