"""A run on the machines of a hostfile, over ssh alone."""
