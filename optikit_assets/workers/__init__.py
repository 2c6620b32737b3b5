"""Entry points that run inside a stage environment, and their request and result models."""
