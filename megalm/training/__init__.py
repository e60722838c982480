"""Composition: the run, its step, its loop, and what it reports."""
