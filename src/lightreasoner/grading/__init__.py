"""Find the answer in a model's text and judge it, in worker processes with limits."""
