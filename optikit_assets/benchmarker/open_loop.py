"""One open-loop probe: requests leave on schedule, whatever the server does."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optikit_assets.benchmarker.arrivals import FloatArray
from optikit_assets.benchmarker.client_load import LoadMeter
from optikit_assets.benchmarker.endpoint import Target
from optikit_assets.benchmarker.probe_log import ProbeLog
from optikit_assets.benchmarker.process_pool import (
    ClientProcess,
    SharedSender,
    processes_needed,
)
from optikit_assets.benchmarker.records import RequestRecord
from optikit_assets.benchmarker.sample import Sample
from optikit_assets.benchmarker.sending import Load, LocalSender, Sender
from optikit_assets.benchmarker.shares import percentile
from optikit_assets.benchmarker.summary import summarize
from optikit_assets.benchmarker.verdict import Judgement, Rules, judge
from optikit_assets.errors import EndpointError
from optikit_assets.schemas import ProbeResult

Progress = dict[str, Any]

# The first request is scheduled a little ahead, so that the sender is up when it is due.
_LEAD_S = 0.05
_SHARED_LEAD_S = 0.25
_TICK_S = 0.25
# A look each second at first, then each time the probe is a tenth longer.
_FIRST_LOOKS_S = 1.0
_LOOK_GROWTH = 1.1
_HEALTH_S = 3.0
# Beyond the last request's own limit, for the event loop to deliver its end.
_SLACK_S = 5.0


@dataclass(frozen=True)
class ProbeSetup:
    """What an open-loop probe is to do.

    Attributes
    ----------
    number
        Number of the probe in the benchmark; selects its prompts.
    rate_rps, schedule_s
        Nominal rate and the arrival times after the start, shape (n,).
    warmup
        So many first requests are left out of the statistics.
    rules
        What the verdict is measured against.
    timeout_s
        Limit of a request, from its scheduled time.
    fixed
        Judge at the end of the schedule only.
    """

    number: int
    rate_rps: float
    schedule_s: FloatArray
    warmup: int
    rules: Rules
    timeout_s: float
    fixed: bool = False


@dataclass(frozen=True)
class ProbeOutcome:
    """Result and timelines; ``gone`` says why the server cannot be asked any more, if so."""

    result: ProbeResult
    records: list[RequestRecord]
    gone: str = ""


async def run_open_probe(
    target: Target,
    plan: ProbeSetup,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    processes: Sequence[ClientProcess] = (),
) -> ProbeOutcome:
    """Run the probe until its verdict is certain or its schedule is used up.

    `processes` send its requests; if there are none, this one does. If one is lost, the probe is
    ``invalid``, and so is one that does not pass with an overloaded client. After a certain fail,
    what still runs is cancelled; otherwise it is waited for, at most ``timeout_s``. Nothing is left
    running when this returns or raises.
    """
    probe = _OpenProbe(target, plan, on_progress, processes)
    return await probe.run()


class _OpenProbe:
    def __init__(
        self,
        target: Target,
        plan: ProbeSetup,
        on_progress: Callable[[Progress], None] | None,
        processes: Sequence[ClientProcess],
    ) -> None:
        self._client = target.client
        self._plan = plan
        self._on_progress = on_progress
        self._processes = max(1, len(processes))
        needed = processes_needed(plan.rate_rps, plan.rules.slo.workload.max_output_tokens)
        self._needed = needed if needed > self._processes else 0
        epoch_s = self._client.now() + (_SHARED_LEAD_S if processes else _LEAD_S)
        self._log = ProbeLog(plan.schedule_s, epoch_s)
        self._meter = LoadMeter(self._client.now())
        indices = range(len(plan.schedule_s))
        load = Load(plan.number, epoch_s, indices, plan.schedule_s.tolist(), plan.timeout_s)
        self._sender: Sender = (
            SharedSender(list(processes), target, load, self._log)
            if processes
            else LocalSender(target, load, self._log)
        )

    async def run(self) -> ProbeOutcome:
        sender = asyncio.create_task(self._sender.send())
        gone = ""
        sample, judgement = await self._look(final=False)
        try:
            sample, judgement, gone = await self._watch(sender)
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            await self._sender.finish(cancel=judgement.verdict not in ("pass", "unresolved"))
        plan, log = self._plan, self._log
        warmup = min(plan.warmup, log.begun)
        result = summarize(
            sample,
            judgement,
            plan.rules.slo,
            kind="open",
            rate_rps=plan.rate_rps,
            window_start_s=float(plan.schedule_s[warmup - 1]) if warmup else 0.0,
            duration_s=self._client.now() - log.epoch_s,
            sent=log.begun,
            errors=log.error_examples(),
            alpha=plan.rules.alpha,
        )
        result = result.model_copy(update={"client_cores": round(self._meter.cores, 3)})
        records = log.records(plan.number, warmup, len(sample), closed=False)
        return ProbeOutcome(result, records, gone)

    async def _watch(self, sender: asyncio.Task[None]) -> tuple[Sample, Judgement, str]:
        now, log, plan = self._client.now, self._log, self._plan
        deadline = log.epoch_s + float(plan.schedule_s[-1]) + plan.timeout_s + _SLACK_S
        next_look = log.epoch_s
        checked_health = -_HEALTH_S
        while True:
            await asyncio.sleep(_TICK_S)
            if sender.done() and not sender.cancelled() and (broken := sender.exception()):
                raise broken
            if not sender.done():
                # Up to the last request: afterwards the client rests.
                self._meter.note(now(), self._sender.cpu_s())
            if self._sender.fault:
                return *await self._conclude("invalid", self._sender.fault), ""
            if log.client_faults:
                reason = "the client ran out of file descriptors"
                return *await self._conclude("invalid", reason), ""
            if log.refused and now() - checked_health >= _HEALTH_S:
                checked_health = now()
                if gone := await self._gone():
                    return *await self._conclude("fail", gone), gone
            over = sender.done() and (not log.in_flight or self._all_settled())
            over = over or now() > deadline
            if not over and (plan.fixed or now() < next_look):
                continue
            sample, judgement = await self._look(final=over)
            if judgement.verdict is not None:
                return sample, judgement, ""
            elapsed = now() - log.epoch_s
            next_look = log.epoch_s + max(elapsed + _FIRST_LOOKS_S, elapsed * _LOOK_GROWTH)

    async def _look(self, *, final: bool) -> tuple[Sample, Judgement]:
        sample = self._sample()
        # In a thread: tens of milliseconds of statistics would hold up the requests that are due.
        return sample, await asyncio.to_thread(self._judge_and_report, sample, final=final)

    def _sample(self) -> Sample:
        return self._log.sample(self._sender.known_s(), self._plan.warmup)

    def _judge_and_report(self, sample: Sample, *, final: bool) -> Judgement:
        judgement = judge(sample, self._plan.rules, final=final)
        self._report(sample)
        # Its lateness counts against the server, so that a pass is one all the same.
        if judgement.verdict in ("fail", "unresolved") and (overload := self._meter.overload()):
            return replace(judgement, verdict="invalid", reason=overload + self._shortage())
        return judgement

    def _shortage(self) -> str:
        if not self._needed:
            return ""
        return f"; such a rate takes about {self._needed} processes, not {self._processes}"

    async def _conclude(self, verdict: Any, reason: str) -> tuple[Sample, Judgement]:
        sample, judgement = await self._look(final=True)
        return sample, Judgement(verdict, reason, judgement.states, judgement.regression)

    def _all_settled(self) -> bool:
        """Whether waiting for what still runs cannot change any objective."""
        objectives = self._plan.rules.slo.objectives
        sample = self._sample()
        return bool(objectives) and all(len(sample.missed(o)) == len(sample) for o in objectives)

    async def _gone(self) -> str:
        """Return why the server is gone after a refused connection, or an empty string."""
        try:
            await self._client.get_json(self._client.base_url + "/models", _HEALTH_S)
        except EndpointError as error:
            return f"the server died during the probe at {self._plan.rate_rps:.3g} req/s: {error}"
        return ""

    def _report(self, sample: Sample) -> None:
        if self._on_progress is None:
            return
        log, plan = self._log, self._plan
        progress: Progress = {
            "probe": plan.number,
            "kind": "open",
            "rate_rps": plan.rate_rps,
            "elapsed_s": round(sample.now_s, 2),
            "sent": log.begun,
            "finished": log.finished,
            "in_flight": len(log.in_flight),
            "errors": log.errors,
        }
        if self._needed:
            progress["processes"] = self._processes
            progress["processes_needed"] = self._needed
        if len(sample):
            for objective in plan.rules.slo.objectives:
                values = sample.values_s(objective.metric, objective.max_ms / 1000.0)
                if len(values):
                    seen = percentile(values, objective.percentile) * 1000.0
                    progress[objective.label + "_ms"] = round(seen, 1)
        self._on_progress(progress)
