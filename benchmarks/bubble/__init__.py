"""The idle time of real pipeline ranks beside the one that the clock predicts."""
