"""Stores: what a run needs to go on, saved whole and loaded at any layout."""
