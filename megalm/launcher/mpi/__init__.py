"""A run by mpirun, MPICH's or Open MPI's."""
