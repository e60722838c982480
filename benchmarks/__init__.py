"""Measurements that anyone can repeat: each folder is one claim, with its command and its numbers."""
