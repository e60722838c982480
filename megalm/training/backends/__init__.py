"""Other engines behind the interface of our own: torch's FSDP2, DeepSpeed, fairscale."""
