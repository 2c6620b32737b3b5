"""OptiKIT on Dagster: SLO-driven LLM optimization as a graph of partitioned assets."""

__version__ = "0.1.0"
