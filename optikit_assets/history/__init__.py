"""Trial history in DuckDB: every trial ever run, queryable with SQL.

::

    HISTORY/
      history.duckdb          published database, replaced by rename: what people open
      private/history.duckdb  the other one, opened by one process at a time, under `private/lock`
      private/owed/           rows that the published one has and the private one has not
      private/appended/       keys of the results all of whose rows are in a database or the spool
      private/published.json  sizes and times of both, as they were when the last was published
      spool/                  rows that are safe on disk and wait to be loaded
      spool/rejected/         spool files that could not be loaded, kept for inspection

DuckDB lets one process write, and any process that has a file open, even read-only, blocks it.
So nobody but a drain ever opens the private file, and appending never waits for anybody. A drain
has the two databases change places (`publishing`), which costs the same however large they are.
"""

from optikit_assets.history.archive import DrainResult, History, RowsByTable, connect
from optikit_assets.history.benchmarks import benchmark_rows
from optikit_assets.history.priors import earlier_winners

__all__ = ["DrainResult", "History", "RowsByTable", "benchmark_rows", "connect", "earlier_winners"]
