"""Time and memory of sparse attention at growing lengths, beside dense attention."""
