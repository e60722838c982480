#!/usr/bin/env bash
# Run on one machine, from which ssh reaches the others without a password: starts a run on the machines of a hostfile
# by mpirun, Open MPI's or MPICH's.
#   launch/mpi.sh RUN.yaml HOSTFILE [key.sub=value]...
set -eu
if [ $# -lt 2 ]; then
    echo "usage: $0 RUN.yaml HOSTFILE [key.sub=value]..." >&2
    exit 2
fi
run_file=$1 hostfile=$2
shift 2

# Your site's own lines: a virtual environment, module load ..., export UCX_NET_DEVICES=..., and the like.

exec megalm launch mpi --hostfile="$hostfile" -- "$run_file" "$@"
