"""Tests of the decoder families, their sizes and their counts."""
