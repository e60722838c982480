"""Tests of megalm/hugging_face."""
