"""What is wrong with a run before it runs: the harness first, then a rehearsal of the real loop, then the model."""
