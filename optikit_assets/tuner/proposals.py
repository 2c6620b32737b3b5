"""What a study measures next: asked of the sampler, never twice, never what is refused."""

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import TrialState

from optikit_assets.engines import Flags
from optikit_assets.schemas import DEFAULT_TRIAL, Trial
from optikit_assets.specs import SearchSpaceSpec, digest
from optikit_assets.tuner.bounded_space import BoundedSpace, Point
from optikit_assets.tuner.economy import start_costs
from optikit_assets.tuner.journal import TrialRecord
from optikit_assets.tuner.random_points import unseen_point
from optikit_assets.tuner.surrogate import Promise, Surrogate

Proposal = tuple[optuna.Trial, TrialRecord]

# Attribute of a proposal that was refused before any trial: why.
_REFUSED = "refused"
# Attribute of a study: the configurations that it begins with.
_PRIORS = "priors"
# Attribute of a proposal: which of those it is.
_PRIOR = "prior"
# Attribute of a proposal that was measured already: its flags.
_DUPLICATE = "duplicate"
_CONSTRAINT = "slo_penalty"
# Orders crashes after every configuration that could at least be measured.
_FAILED_PENALTY = 1000.0
# Sampled again so often before a point is drawn that is certainly new.
_DUPLICATES = 20
# So many have to be measured before they are modelled.
_MODELLED = 1


class Proposals:
    """Draws the configurations of one opening of a study.

    Each is drawn from (seed, number of proposals so far); one that is repeated counts once.
    Configurations that a server can change to while it runs are drawn as a group, which shares all
    other flags.

    Parameters
    ----------
    hot
        Flags that a running server can change; empty: each configuration has its own server.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpaceSpec,
        bounded: BoundedSpace,
        seed: int,
        now: Callable[[], datetime],
        hot: frozenset[str] = frozenset(),
    ) -> None:
        self._study = study
        self._space = space
        self._bounded = bounded
        self._seed = seed
        self._now = now
        self._hot = hot & bounded.domains.keys()
        self._seen: set[str] = set()
        self._next_number = DEFAULT_TRIAL + 1

    def remember(self, number: int, flags: Flags | None = None) -> None:
        """Take a trial for given: its number, and its flags if they were measured."""
        self._next_number = max(self._next_number, number + 1)
        if flags is not None:
            self._seen.add(self.identity(flags))

    def begin_with(self, priors: Sequence[Flags]) -> None:
        """Queue these configurations before what the sampler draws, once in a study."""
        points = self._study.user_attrs.get(_PRIORS)
        if points is None:
            points = [p for flags in priors if (p := self._bounded.nearest_point(flags))]
            self._study.set_user_attr(_PRIORS, points)
        if isinstance(points, int):
            # An earlier release kept their number alone.
            return
        # A process that was killed queued some of them.
        queued = {t.user_attrs.get(_PRIOR) for t in self._study.get_trials(deepcopy=False)}
        for number, point in enumerate(points):
            if number not in queued:
                self._study.enqueue_trial(point, user_attrs={_PRIOR: number})

    def group(self, size: int) -> list[Proposal]:
        """Return at most `size` configurations that one server can run; none if all were measured.

        They differ in flags that a running server can change, and alone where it can change none.
        """
        lead = self._next()
        if lead is None:
            return []
        found = [lead]
        fixed = {n: v for n, v in lead[0].params.items() if n not in self._hot}
        while self._hot and len(found) < size and self._worth_sharing(fixed):
            other = self._next(fixed)
            if other is None:
                break
            if self._cold(other[1].flags) != self._cold(lead[1].flags):
                # It waited in the queue, and goes on waiting, for a server of its own.
                self.put_back(*other)
                break
            found.append(other)
        return found

    def put_back(self, trial: optuna.Trial, record: TrialRecord) -> None:
        """Have a configuration that is not measured yet proposed once more, under its number."""
        self._requeue(trial, record.attributes())

    def again(self, number: int) -> Proposal | None:
        """Return the configuration of a finished trial, to be measured with a server of its own.

        Under the number that it has already, if this was begun and broken off.
        """
        known = [(t, r) for t in self._study.get_trials(deepcopy=False) if (r := TrialRecord.of(t))]
        found = next(((t, r) for t, r in known if r.number == number), None)
        if found is None:
            return None
        frozen, record = found
        same = self.identity(record.flags)
        waiting = [r for t, r in known if t.state is TrialState.WAITING]
        wanted = next((r for r in waiting if self.identity(r.flags) == same), None)
        if wanted is None:
            wanted = TrialRecord(number=self._next_number, flags=record.flags)
            self._study.enqueue_trial(frozen.params, user_attrs=wanted.attributes())
        # Whatever was queued before it goes behind it.
        while True:
            trial = self.ask()
            self._bounded.suggest(trial)
            if (asked := TrialRecord.of(trial)) and asked.number == wanted.number:
                return self._noted(trial, asked)
            self._requeue(trial, trial.user_attrs)

    def tell(self, asked: optuna.Trial, trial: Trial) -> None:
        """Report to the sampler; a failed trial has no value, but breaks the constraint.

        Optuna forgets trials told as FAIL and would propose a crashing configuration again; told as
        PRUNED with a broken constraint they push the sampler away and are never the best.
        """
        failed = trial.status == "failed"
        if _CONSTRAINT not in asked.constraints:
            asked.set_constraint(_CONSTRAINT, _FAILED_PENALTY if failed else trial.slo_penalty)
        if failed:
            self._study.tell(asked, state=TrialState.PRUNED)
        else:
            self._study.tell(asked, trial.fitness)

    @property
    def refused(self) -> dict[str, int]:
        """Why proposals were refused, the most frequent reason first, and how many."""
        reasons = (t.user_attrs.get(_REFUSED) for t in self._study.get_trials(deepcopy=False))
        return dict(Counter(reason for reason in reasons if reason is not None).most_common())

    def identity(self, flags: Flags) -> str:
        """Return what equal configurations have in common."""
        return digest(json.loads(json.dumps(self._bounded.effective(flags))))

    def ask(self, fixed: dict[str, Any] | None = None) -> optuna.Trial:
        """Ask the sampler, with these parameters given."""
        number = sum(map(_counts, self._study.get_trials(deepcopy=False)))
        sampler: optuna.samplers.BaseSampler = optuna.samplers.TPESampler(
            n_startup_trials=self._space.startup_trials,
            # Those that still run count as the worst, so that the next is drawn away from them.
            constant_liar=True,
            seed=self._derived_seed(f"trial {number}"),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if fixed:
                sampler = optuna.samplers.PartialFixedSampler(fixed, sampler)
        self._study.sampler = sampler
        return self._study.ask()

    def servers(self, many: Iterable[Flags]) -> int:
        """Return how many servers these take at least: those that one can change to share it."""
        return len({json.dumps(self._cold(flags), sort_keys=True) for flags in many})

    def _cold(self, flags: Flags) -> Flags:
        return {n: v for n, v in self._bounded.effective(flags).items() if n not in self._hot}

    def _next(self, fixed: dict[str, Any] | None = None) -> Proposal | None:
        """Ask for a configuration that was not measured yet; None if there is none."""
        promise = self._promise(fixed)
        for attempt in range(2 * _DUPLICATES):
            if attempt >= _DUPLICATES and (fixed is not None or not self._enqueue_unseen(attempt)):
                return None
            trial = self.ask(promise.point if promise and not attempt else fixed)
            flags = self._bounded.suggest(trial)
            retried = TrialRecord.of(trial)
            if refusal := self._bounded.refusal(flags):
                trial.set_user_attr(_REFUSED, refusal)
                self._study.tell(trial, state=TrialState.FAIL)
                continue
            if retried is None and self.identity(flags) in self._seen:
                # Told as failed, which the sampler leaves out: a repeated value would count double.
                trial.set_user_attr(_DUPLICATE, flags)
                self._study.tell(trial, state=TrialState.FAIL)
                continue
            return self._noted(trial, retried or TrialRecord(number=self._next_number, flags=flags))
        return None

    def _promise(self, fixed: Point | None = None) -> Promise | None:
        """Return the most promising configuration that is new; None where no model says one."""
        if not self._space.economy.surrogate:
            return None
        trials, running = self._so_far()
        if len([t for t in trials if t.status != "failed"]) < _MODELLED:
            return None
        seed = self._derived_seed(f"promise {self._next_number}")
        promises = Surrogate(self._bounded, trials, running, seed).promises(fixed)
        return next((p for p in promises if self._is_new(p.point)), None)

    def _is_new(self, point: Point) -> bool:
        flags = self._bounded.flags_of(point)
        return self.identity(flags) not in self._seen and not self._bounded.refusal(flags)

    def _worth_sharing(self, fixed: Point) -> bool:
        """Whether one more on the same server promises more per second than another server.

        What shares a server has to be confirmed, so that it takes one trial more.
        """
        costs = start_costs(self._so_far()[0])
        if costs is None or not (anywhere := self._promise()):
            return True
        here = self._promise(fixed)
        return here is not None and here.gain * costs >= anywhere.gain

    def _so_far(self) -> tuple[list[Trial], list[Flags]]:
        """Return finished trials, and the flags of those that run."""
        frozen = self._study.get_trials(deepcopy=False)
        known = [(t.state, r) for t in frozen if (r := TrialRecord.of(t)) is not None]
        finished = [record.trial for _, record in known if record.trial is not None]
        running = [r.flags for s, r in known if s is TrialState.RUNNING and r.trial is None]
        return finished, running

    def _requeue(self, trial: optuna.Trial, attributes: dict[str, Any]) -> None:
        self._study.tell(trial, state=TrialState.FAIL)
        self._study.enqueue_trial(trial.params, user_attrs=attributes)

    def _noted(self, trial: optuna.Trial, record: TrialRecord) -> Proposal:
        record = record.model_copy(update={"started_at": self._now().isoformat()})
        record.note_in(trial)
        self.remember(record.number, record.flags)
        return trial, record

    def _enqueue_unseen(self, attempt: int) -> bool:
        point = unseen_point(
            self._bounded,
            seed=self._derived_seed(f"unseen {self._next_number} {attempt}"),
            is_seen=lambda flags: (
                self.identity(flags) in self._seen or bool(self._bounded.refusal(flags))
            ),
        )
        if point is not None:
            self._study.enqueue_trial(point)
        return point is not None

    def _derived_seed(self, what: str) -> int:
        return int(hashlib.sha256(f"{self._seed} {what}".encode()).hexdigest()[:8], 16)


def _counts(trial: optuna.trial.FrozenTrial) -> bool:
    """Return whether a trial is a proposal of its own: neither queued again, nor drawn again.

    The latter is what a killed process had not noted down.
    """
    goes_on = trial.state is not TrialState.FAIL
    return goes_on or _REFUSED in trial.user_attrs or _DUPLICATE in trial.user_attrs
