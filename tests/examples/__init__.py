"""Tests of the files that a user copies from."""
