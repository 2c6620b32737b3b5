"""An example of a Dagster project that embeds the graph of OptiKIT."""
