"""Tests of the pipeline engine."""
