"""vLLM: all that knows it."""
