"""Tests of megalm.data."""
