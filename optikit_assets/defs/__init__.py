"""Dagster glue: partitions, versions, one module of assets and checks per stage."""

import warnings

import dagster as dg

# Multi-partition mappings and partitioned observations are beta: Dagster is pinned for that.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
