"""Tests of megalm.plan."""
