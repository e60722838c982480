"""What only a GPU shows: skipped where there is none."""
