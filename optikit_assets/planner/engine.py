r"""An engine in virtual time: continuous batching, driven by a model of its steps.

As the schedulers of engines do it: each step, every sequence that decodes gets one token; what is
left of ``max_num_batched_tokens`` goes to prompts, first to those begun, then to those that wait,
first come first served, as long as ``max_num_seqs`` and the cache allow. A prompt larger than what
is left is cut (chunked prefill). Where the cache runs full, the sequence that came last gives its
place up and is computed anew.

While nothing but decoding goes on, the steps up to the next end of a sequence are one block:
with n sequences and :math:`\delta` the growth of a step, k steps take
:math:`k t_1 + \delta k (k - 1) / 2`. So the cost of a simulation is in requests, not in tokens.

Deviation: a prefix is kept by the id that a request gives; blocks of the cache matter to it alone.
"""

import heapq
import math
from collections import OrderedDict, deque
from dataclasses import dataclass

from optikit_assets.planner.step_time import StepTime

_NEVER = math.inf


@dataclass(frozen=True)
class Limits:
    """What an engine's flags and its memory allow, on one lane.

    Attributes
    ----------
    max_num_seqs, max_num_batched_tokens
        Most sequences at a time, and most tokens that a step computes.
    chunked_prefill
        Whether a prompt may be cut; if not, it waits until a whole step has room.
    cache_tokens
        Tokens that fit into the cache.
    prefix_tokens
        Of those, how many may hold prefixes that nobody uses at the moment; 0: no prefix cache.
    block_tokens
        Tokens of a block: of a prefix, whole blocks are kept.
    """

    max_num_seqs: int = 1024
    max_num_batched_tokens: int = 8192
    chunked_prefill: bool = True
    cache_tokens: float = _NEVER
    prefix_tokens: float = 0.0
    block_tokens: int = 1


@dataclass(slots=True)
class Sequence:
    """A request on its way through an engine; times in seconds.

    ``prefix`` names the first ``prefix_tokens`` of its prompt, which others may share. A
    ``prefilled`` one comes with its cache and its first token.
    """

    arrival_s: float
    input_tokens: int
    output_tokens: int
    prefix: int = -1
    prefix_tokens: int = 0
    prefilled: bool = False
    first_token_s: float = _NEVER
    finished_s: float = _NEVER
    to_compute: int = 0
    computed: int = 0
    generated: int = 0
    last_step: int = 0

    @property
    def length(self) -> int:
        """Tokens in the cache as it decodes."""
        return self.input_tokens + self.generated


class VirtualEngine:
    """One lane of a server. Its owner lets it go on to `ends_s`, or submits before that."""

    def __init__(self, step: StepTime, limits: Limits) -> None:
        self.step = step
        self.limits = limits
        self.now_s = 0.0
        self.ends_s = _NEVER
        """When the block that it works on ends."""
        self.outstanding = 0
        """Requests that were submitted and did not end."""
        self.busy_s = 0.0
        self._waiting: deque[Sequence] = deque()
        self._prompts: deque[Sequence] = deque()
        self._decoding: list[tuple[int, int, Sequence]] = []
        self._steps = 0
        self._count = 0
        self._cached = 0
        self._used = 0
        self._order = 0
        self._prefixes: OrderedDict[int, int] = OrderedDict()
        self._prefix_used = 0
        # The block under way: its steps, the time of the first and the growth of each further one.
        self._block = 0
        self._first_s = 0.0
        self._growth_s = 0.0
        self._chunks: list[tuple[Sequence, int]] = []

    @property
    def prefixes(self) -> int:
        """How many prefixes are in its cache."""
        return len(self._prefixes)

    def holds(self, prefix: int) -> bool:
        """Whether a prefix is in its cache."""
        return prefix in self._prefixes

    def submit(self, sequence: Sequence) -> None:
        """Take a request that arrives now; earlier ones were submitted before."""
        self.outstanding += 1
        self._waiting.append(sequence)
        if self.ends_s == _NEVER:
            self.now_s = max(self.now_s, sequence.arrival_s)
            self._plan()
        elif self._block > 1 and self._can_admit(sequence):
            # The step that is under way ends first.
            steps = self._steps_until(sequence.arrival_s - self.now_s)
            if steps < self._block:
                self._block = steps
                self.ends_s = self.now_s + self._seconds_of(steps)

    def advance(self) -> list[Sequence]:
        """Finish the block under way and begin the next; return what ended with it."""
        steps = self._block
        self.busy_s += self.ends_s - self.now_s
        self.now_s = self.ends_s
        self._steps += steps
        self._cached += self._count * steps
        self._used += self._count * steps
        ended: list[Sequence] = []
        while self._decoding and self._decoding[0][0] <= self._steps:
            sequence = heapq.heappop(self._decoding)[2]
            if sequence.last_step != self._steps:
                continue
            self._count -= 1
            sequence.generated = sequence.output_tokens
            self._cached -= sequence.length
            self._end(sequence, ended)
        for sequence, tokens in self._chunks:
            sequence.computed += tokens
            if sequence.computed >= sequence.to_compute:
                self._first_token(sequence, ended)
        self._prompts = deque(s for s in self._prompts if s.computed < s.to_compute)
        while self._used > self.limits.cache_tokens and self._count > 1:
            self._preempt()
        self._plan()
        return ended

    def _first_token(self, sequence: Sequence, ended: list[Sequence]) -> None:
        self._remember(sequence)
        if not sequence.generated:
            sequence.generated = 1
            if sequence.first_token_s == _NEVER:
                sequence.first_token_s = self.now_s
        if sequence.generated >= sequence.output_tokens:
            self._used -= sequence.input_tokens
            self._finish(sequence, ended)
            return
        self._decode(sequence)

    def _decode(self, sequence: Sequence) -> None:
        sequence.last_step = self._steps + sequence.output_tokens - sequence.generated
        self._order += 1
        heapq.heappush(self._decoding, (sequence.last_step, self._order, sequence))
        self._count += 1
        self._cached += sequence.length
        self._used += sequence.generated

    def _end(self, sequence: Sequence, ended: list[Sequence]) -> None:
        self._used -= sequence.length
        self._finish(sequence, ended)

    def _finish(self, sequence: Sequence, ended: list[Sequence]) -> None:
        sequence.finished_s = self.now_s
        self.outstanding -= 1
        ended.append(sequence)

    def _preempt(self) -> None:
        """Put the sequence that began to decode last back to the head of those that wait."""
        alive = (entry for entry in self._decoding if entry[0] == entry[2].last_step)
        sequence = max(alive, key=lambda entry: entry[1])[2]
        sequence.generated = sequence.output_tokens - (sequence.last_step - self._steps)
        sequence.last_step = -1
        self._count -= 1
        self._cached -= sequence.length
        self._used -= sequence.length
        self._waiting.appendleft(sequence)

    def _can_admit(self, sequence: Sequence) -> bool:
        if self._count + len(self._prompts) >= self.limits.max_num_seqs:
            return False
        if self._count >= self.limits.max_num_batched_tokens:
            return False
        idle = not self._count and not self._prompts
        return idle or self._used + sequence.length <= self.limits.cache_tokens

    def _plan(self) -> None:
        """Decide what the next block is: one step with prompts, or as many as only decode."""
        budget = self.limits.max_num_batched_tokens - self._count
        self._chunks = []
        tokens, pairs, first = 0, 0.0, 0
        for sequence in self._prompts:
            budget, tokens, pairs, first = self._chunk(sequence, budget, tokens, pairs, first)
        while self._waiting and budget > 0 and self._can_admit(self._waiting[0]):
            sequence = self._waiting[0]
            uncached = sequence.length - self._hit(sequence)
            if self._waits_whole(sequence, uncached, budget) and (tokens or self._count):
                break
            self._waiting.popleft()
            self._used += sequence.input_tokens
            if sequence.prefilled:
                sequence.prefilled = False
                self._decode(sequence)
                budget -= 1
                continue
            sequence.computed = 0
            sequence.to_compute = uncached
            self._prompts.append(sequence)
            budget, tokens, pairs, first = self._chunk(sequence, budget, tokens, pairs, first)
        if not tokens and not self._count:
            self._block, self.ends_s = 0, _NEVER
            return
        self._growth_s = self.step.growth_s(self._count)
        self._first_s = self.step.seconds(
            tokens + self._count, pairs, self._count + first, self._cached
        )
        self._block = 1 if tokens else self._steps_alone()
        self.ends_s = self.now_s + self._seconds_of(self._block)

    def _waits_whole(self, sequence: Sequence, uncached: int, budget: int) -> bool:
        """Whether a prompt may not be cut, and what is left of a step has no room for it."""
        return not (self.limits.chunked_prefill or sequence.prefilled or uncached <= budget)

    def _chunk(
        self, sequence: Sequence, budget: int, tokens: int, pairs: float, first: int
    ) -> tuple[int, int, float, int]:
        left = sequence.to_compute - sequence.computed
        chunk = min(left, budget) if self.limits.chunked_prefill else left
        if chunk <= 0:
            return budget, tokens, pairs, first
        self._chunks.append((sequence, chunk))
        before = sequence.length - left
        step = self.step
        seen = before + chunk / 2.0
        if step.windowed_share:
            seen += step.windowed_share * (min(seen, float(step.window)) - seen)
        return budget - chunk, tokens + chunk, pairs + chunk * seen, first + (chunk == left)

    def _steps_alone(self) -> int:
        """Return the steps until a sequence ends, or the cache is full."""
        # What was put back is still in the heap, under its old last step.
        while self._decoding[0][0] != self._decoding[0][2].last_step:
            heapq.heappop(self._decoding)
        steps = self._decoding[0][0] - self._steps
        room = self.limits.cache_tokens - self._used
        if room < _NEVER and self._count > 1:
            steps = min(steps, max(1, math.floor(room / self._count) + 1))
        return steps

    def _seconds_of(self, steps: int) -> float:
        return steps * self._first_s + self._growth_s * steps * (steps - 1) / 2.0

    def _steps_until(self, seconds: float) -> int:
        """Return after how many steps of the block so much time has passed, at least one."""
        slope = self._growth_s
        if slope <= 0.0:
            steps = seconds / self._first_s
        else:
            linear = self._first_s - slope / 2.0
            steps = (math.sqrt(linear * linear + 2.0 * slope * seconds) - linear) / slope
        return max(1, math.ceil(steps - 1e-9))

    def _hit(self, sequence: Sequence) -> int:
        """Return how many tokens of a prompt are in the cache; at least one is computed."""
        if sequence.prefix not in self._prefixes:
            return 0
        self._prefixes.move_to_end(sequence.prefix)
        known = min(self._prefixes[sequence.prefix], sequence.length - 1)
        return known - known % self.limits.block_tokens

    def _remember(self, sequence: Sequence) -> None:
        room = self.limits.prefix_tokens
        if sequence.prefix < 0 or sequence.prefix in self._prefixes:
            return
        if sequence.prefix_tokens > room:
            return
        self._prefixes[sequence.prefix] = sequence.prefix_tokens
        self._prefix_used += sequence.prefix_tokens
        while self._prefix_used > room:
            _, tokens = self._prefixes.popitem(last=False)
            self._prefix_used -= tokens
