"""Rates under an SLO: the asset `benchmark_sweep`, and how every benchmark is run and kept."""
