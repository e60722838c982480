"""Tests of placing and starting ranks."""
