#!/usr/bin/env bash
# Run on every node, by hand or by what your cluster has: joins this node to a run.
#   launch/torchrun.sh RUN.yaml NUM_NODES FIRST_NODE[:PORT] [key.sub=value]...
# FIRST_NODE is one of them, the same on all. Start it again with the same words, and the run goes on from its newest
# checkpoint; NUM_NODES may be MIN:MAX for a run that goes on with fewer.
set -eu
if [ $# -lt 3 ]; then
    echo "usage: $0 RUN.yaml NUM_NODES FIRST_NODE[:PORT] [key.sub=value]..." >&2
    exit 2
fi
run_file=$1 num_nodes=$2 first_node=$3
shift 3

# Your site's own lines: a virtual environment, module load ..., export NCCL_SOCKET_IFNAME=..., and the like.

exec megalm launch torchrun --nnodes="$num_nodes" --rdzv-endpoint="$first_node" -- "$run_file" "$@"
