"""The data engine: gradients in flat buckets, summed over the data axis when a block is done."""
