"""The tensor engine: layers whose weights are split over one axis, and their collectives."""
