"""Tests of where ranks are, and what follows from it."""
