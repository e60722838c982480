"""Tests of the benchmarks of sharding and updates."""
