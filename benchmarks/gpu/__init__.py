"""One GPU: model FLOPs utilization and memory beside the GPT that one writes in plain PyTorch."""
