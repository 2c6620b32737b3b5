"""Virtual time for code that blocks: threads of which one runs at a time, and a clock that jumps.

What is simulated is the project's own code, which waits by calling something. So every task is a
thread; it runs until it waits, and then the next one that is due does. Time goes on only while all
of them wait: nothing takes any, unless it says so. A run is the same whenever it is repeated.
"""

import heapq
import itertools
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

Item = TypeVar("Item")
Done = TypeVar("Done")

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Task:
    """Something under way in virtual time."""

    def __init__(self, do: Callable[[], object], over: threading.Lock) -> None:
        self.turn = threading.Lock()
        self.turn.acquire()
        self.waits = 0
        self.failed: BaseException | None = None
        self._do = do
        self._over = over
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        self.turn.acquire()
        try:
            self._do()
        except BaseException as error:
            self.failed = error
        self._over.release()


class VirtualTime:
    """The clock of one simulation, in seconds from its start."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, int, Task]] = []
        self._order = itertools.count()
        self._over = threading.Lock()
        self._over.acquire()
        self._current: Task | None = None

    def __call__(self) -> float:
        """Return the present."""
        return self.now

    def date(self) -> datetime:
        """Return the present as a date."""
        return EPOCH + timedelta(seconds=self.now)

    @property
    def current(self) -> Task:
        """The task that runs."""
        assert self._current is not None
        return self._current

    def start(self, do: Callable[[], object]) -> None:
        """Have something done from now on."""
        self._put(Task(do, self._over), 0.0)

    def sleep(self, seconds: float) -> None:
        """Wait, in a task; `wake` ends it."""
        task = self.current
        task.waits += 1
        self._put(task, seconds)
        self._over.release()
        task.turn.acquire()

    def wake(self, task: Task) -> None:
        """Let a task go on that sleeps."""
        task.waits += 1
        self._put(task, 0.0)

    def run(self) -> None:
        """Carry out everything that was started, and what that starts.

        Raises
        ------
        BaseException
            The first that a task raises.
        """
        while self._due:
            when, _, waits, task = heapq.heappop(self._due)
            # It was woken before.
            if waits != task.waits:
                continue
            self.now = when
            self._current = task
            task.turn.release()
            self._over.acquire()
            if task.failed is not None:
                raise task.failed

    def at_once(
        self,
        items: Sequence[Item],
        do: Callable[[Item], Done],
        width: int,
        stop: threading.Event,
    ) -> list[Done]:
        """Do something with every item, `width` at a time; as `execution.settling.Concurrently`."""
        waiting = list(enumerate(items))
        done: dict[int, Done] = {}
        caller = self.current

        def work() -> None:
            while waiting:
                number, item = waiting.pop(0)
                done[number] = do(item)
            if len(done) == len(items):
                self.wake(caller)

        for _ in range(min(width, len(items))):
            self.start(work)
        while len(done) < len(items):
            self.sleep(float("inf"))
        return [done[number] for number in range(len(items))]

    def _put(self, task: Task, seconds: float) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._order), task.waits, task))
