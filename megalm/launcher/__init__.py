"""Starting ranks and finding the own place among them: local processes, torchrun, Slurm, MPI."""
