"""Launchers on the real programs: hosts with their own network, a real Slurm over them."""
