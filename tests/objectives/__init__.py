"""Tests of megalm.objectives."""
