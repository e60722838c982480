"""What a run will cost, from integers alone: no torch, so that it answers in seconds for any number of ranks."""
