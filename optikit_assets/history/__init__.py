"""Trial history in DuckDB: every trial ever run, queryable with SQL.

::

    HISTORY/
      history.duckdb          published copy, replaced by rename: what people open
      private/history.duckdb  the database, opened by one process at a time, under `private/lock`
      private/appended/       keys of the results all of whose rows are in the database or the spool
      private/published.json  sizes and times of database and copy, as they were when it was made
      spool/                  rows that are safe on disk and wait to be loaded
      spool/rejected/         spool files that could not be loaded, kept for inspection

DuckDB lets one process write, and any process that has a file open, even read-only, blocks it.
So nobody but a drain ever opens the private file, and appending never waits for anybody.
"""

from optikit_assets.history.archive import DrainResult, History, RowsByTable
from optikit_assets.history.benchmarks import benchmark_rows
from optikit_assets.history.priors import earlier_winners

__all__ = ["DrainResult", "History", "RowsByTable", "benchmark_rows", "earlier_winners"]
