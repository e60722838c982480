"""What is learned from: the losses and how a sample becomes inputs and labels."""
