"""Dagster glue: partitions, versions, sensors, and a package for each stage."""

import warnings

import dagster as dg

# Multi-partition mappings and partitioned observations and checks are marked so: Dagster is pinned
# for that.
for _marked in (dg.BetaWarning, dg.PreviewWarning):
    warnings.filterwarnings("ignore", category=_marked)
