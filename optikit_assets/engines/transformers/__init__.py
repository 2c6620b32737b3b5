"""The server of the transformers library: all that knows it."""
