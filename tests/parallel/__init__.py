"""Tests of the three engines."""
