"""Hugging Face's directories, in and out: which of their slices are ours, reading, writing, planning, comparing."""
