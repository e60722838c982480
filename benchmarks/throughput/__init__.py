"""Speed and memory of megalm beside plain PyTorch and megatron-core, on the same work."""
