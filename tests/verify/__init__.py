"""The layout never changes the result, and a planted fault is seen."""
