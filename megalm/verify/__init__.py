"""The proof: the same steps at a layout and on one process, compared tensor by tensor."""
