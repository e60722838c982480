"""Text from a trained model: choosing tokens, the model over its ranks, and what is said of other texts."""
