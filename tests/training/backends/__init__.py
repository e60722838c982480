"""Tests of megalm.training.backends."""
