"""Where each rank of a run is, kept where others can read it; and what follows from that when a run does not go on."""
