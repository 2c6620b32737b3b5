"""Many units of work on any executor: as many at once as it has room for, bounded retries."""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from typing import Generic, Protocol, TypeVar

from optikit_assets.errors import NodeLostError, StageError
from optikit_assets.execution.base import Executor, Lease, log

MAX_LOST_NODES = 2
"""How many nodes a piece of work may lose before that ends its stage."""


class WorkItem(Protocol):
    """A unit of work that ends in an artifact."""

    @property
    def artifact_key(self) -> str:
        """Key of the artifact."""
        ...


Item = TypeVar("Item", bound=WorkItem)
Batch = TypeVar("Batch")
Done = TypeVar("Done")


class Concurrently(Protocol):
    """Does something with every item, with `width` of them at a time, and returns the results.

    The first that fails ends all: it sets `stop`, and raises.
    """

    def __call__(
        self, items: Sequence[Batch], do: Callable[[Batch], Done], width: int, stop: threading.Event
    ) -> list[Done]: ...


def on_some_node(
    executor: Executor,
    accelerators: int,
    do: Callable[[Lease], Done],
    stop: threading.Event | None = None,
) -> Done:
    """Do something under a lease, and again under another one if its node is lost.

    Parameters
    ----------
    do
        Looks first for what it finished before.

    Raises
    ------
    NodeLostError
        If a third node is lost with it: then it may be what it does that takes nodes down.
    """
    for lost in range(MAX_LOST_NODES + 1):
        try:
            with executor.lease(accelerators, stop) as lease:
                return do(lease)
        except NodeLostError as error:
            if lost == MAX_LOST_NODES:
                raise
            log.warning("%s; it is done again on another node", error)
    raise AssertionError


def settle(
    executor: Executor,
    items: Sequence[Item],
    do: Callable[[Sequence[Item], Lease], Mapping[str, str]],
    *,
    is_done: Callable[[str], bool],
    per_worker: int,
    max_attempts: int,
    accelerators: int = 1,
    at_once: Concurrently | None = None,
) -> dict[str, str]:
    """Bring every item to an end: done, or failed with its reason after `max_attempts`.

    An item that a worker neither finished nor failed was not reached: it goes to the next
    worker, ahead of what failed, and no attempt is counted, unless the worker reached none.

    Parameters
    ----------
    executor
        Grants the leases; says how many there can be at a time.
    items
        Units of work, each with the key of the artifact it makes; those that are done already
        are not started again.
    do
        Runs one worker on a batch under a lease and returns the reasons of items that failed,
        by artifact key. A `StageError` is a failed attempt of every item of the batch that is
        not done; a `MachineError` is nobody's attempt and ends the whole, unless it is a
        `NodeLostError`: then what is not done of the batch is done on another node.
    is_done
        Whether the artifact with this key is complete. Asked anew under the lease, since
        another process may have finished the item while this one waited.
    per_worker
        Batch size: the start of a worker is paid once per batch.
    at_once
        Does several batches at a time; in threads by default.

    Returns
    -------
    dict
        Artifact key of every failed item -> reason of its last attempt.
    """
    work = _Work(items, is_done, per_worker, max_attempts)
    stop = threading.Event()

    def attempt(batch: Sequence[Item], lease: Lease) -> Mapping[str, str]:
        todo = [item for item in batch if not is_done(item.artifact_key)]
        if not todo or stop.is_set():
            return {}
        try:
            return do(todo, lease)
        except StageError as error:
            return {item.artifact_key: str(error) for item in todo}

    def go_on(number: int) -> None:
        while not stop.is_set() and (batch := work.take()):
            failures = on_some_node(executor, accelerators, partial(attempt, batch), stop)
            work.settle(batch, failures)

    width = max(1, min(work.batches, executor.slots // accelerators))
    (at_once or in_threads)(range(width), go_on, width, stop)
    return work.reasons()


class _Work(Generic[Item]):
    """What is still to be done, shared by the threads that do it.

    A thread gives back what is left of its batch and takes the next one: nobody waits for another
    one's batch, and what failed is tried again beside what was not tried yet.
    """

    def __init__(
        self,
        items: Sequence[Item],
        is_done: Callable[[str], bool],
        per_worker: int,
        max_attempts: int,
    ) -> None:
        self._every = items
        self._is_done = is_done
        self._per_worker = per_worker
        self._max_attempts = max_attempts
        self._pending = [item for item in items if not is_done(item.artifact_key)]
        self._attempts: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}
        self._changing = threading.Lock()

    @property
    def batches(self) -> int:
        """How many there are before anything failed."""
        return -(-len(self._pending) // self._per_worker)

    def take(self) -> list[Item]:
        """Return the next batch; empty if there is none now."""
        with self._changing:
            batch = self._pending[: self._per_worker]
            del self._pending[: len(batch)]
            return batch

    def settle(self, batch: Sequence[Item], failures: Mapping[str, str]) -> None:
        """Take back what is left of a batch, unless it failed too often."""
        left = [item for item in batch if not self._is_done(item.artifact_key)]
        reached_some = failures or len(left) < len(batch)
        with self._changing:
            self._reasons.update(failures)
            tried = list(failures) if reached_some else [item.artifact_key for item in left]
            self._attempts.update(tried)
            self._pending += [item for item in left if self._tries(item) < self._max_attempts]
            self._pending.sort(key=self._tries)

    def reasons(self) -> dict[str, str]:
        """Return why each item that is not done is not."""
        unknown = "no reason was reported"
        keys = [item.artifact_key for item in self._every]
        return {key: self._reasons.get(key, unknown) for key in keys if not self._is_done(key)}

    def _tries(self, item: Item) -> int:
        return self._attempts[item.artifact_key]


def in_threads(
    items: Sequence[Batch], do: Callable[[Batch], Done], width: int, stop: threading.Event
) -> list[Done]:
    """Do something with every item in threads of this process; see `Concurrently`."""
    if width <= 1:
        return [do(item) for item in items]
    with ThreadPoolExecutor(width) as pool:
        futures = [pool.submit(do, item) for item in items]
        try:
            # The first that fails ends all, in whatever order they were begun.
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
            return [future.result() for future in futures]
        except BaseException:
            # Leaving the pool waits for its threads; their leases end with this.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
