"""Training: the loop over epochs, and the run folder that keeps its weights and state."""
