"""The tests; they mirror the modules of megalm."""
