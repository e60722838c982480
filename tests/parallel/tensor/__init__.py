"""Tests of the tensor engine."""
