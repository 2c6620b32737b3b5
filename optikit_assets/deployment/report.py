"""Renders ``report.html``: one self-contained page for whoever deploys, or wants proof."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from optikit_assets.deployment import (
    arm_plots,
    canvas,
    lease_plots,
    plots,
    quality_plots,
    tuning_plots,
)
from optikit_assets.deployment.bundle import ConfigFile
from optikit_assets.deployment.four_arms import gain_text, rate_text
from optikit_assets.deployment.report_data import ReportData
from optikit_assets.schemas import Deployment, RecoveryRow
from optikit_assets.specs import Objective
from optikit_assets.specs.workload import Length


def render_report(
    deployment: Deployment, data: ReportData, config: ConfigFile | None = None
) -> str:
    """Return the page; everything on it comes from the arguments.

    Parameters
    ----------
    config
        Shown for copying; ``None`` if nothing can be deployed.
    """
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            d=deployment,
            data=data,
            config=config,
            figures=_figures(deployment, data),
            full_precision=_full_precision(deployment),
            workload=_workload(deployment),
            metric_title=plots.metric_title,
            gain_text=gain_text,
            rate_text=rate_text,
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("optikit_assets.deployment"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "rate": lambda value: _number(value, ".3g"),
        "ms": _milliseconds,
        "score": lambda value: _number(value, ".3f"),
        "percent": lambda value: "–" if value is None else f"{value:.1%}",
        "gain": lambda value: "–" if value is None else f"{value:.2f}×",
        "size": _size,
        "flags": _flag_text,
        "objective": _objective_text,
    }
    return environment


def _figures(deployment: Deployment, data: ReportData) -> dict[str, str]:
    """Return name -> data URI of an SVG; no entry where there is nothing to draw."""
    slo = deployment.slo
    quantized = {q.recipe: q.tasks for q in deployment.quality if q.verdict != "reference"}
    refused = {q.recipe for q in deployment.quality if not q.accepted}
    probe = data.steady_state_probe
    drawn: dict[str, Figure] = {}
    if any(arm.rate_per_gpu for arm in deployment.arms.rows()):
        drawn["arms"] = arm_plots.four_arms(deployment.arms)
    if any(len(arm.rounds) > 1 for arm in deployment.certification.arms):
        drawn["race"] = arm_plots.race(deployment.certification.arms)
    if any(p.kind == "open" for series in data.series for p in series.probes):
        drawn["latency"] = plots.latency_against_rate(data.series, slo.objectives)
    if probe is not None and probe.arrivals_s:
        drawn["steady_state"] = plots.steady_state(probe, slo.budget.steady_state_tolerance)
    if data.leases:
        drawn["gantt"] = lease_plots.gantt(data.leases)
    if data.study is not None and data.trials:
        found = tuning_plots.figures(data.study)
        drawn |= {f"tuning {name}": figure for name, figure in found.items()}
    if any(quantized.values()):
        drawn["recovery"] = quality_plots.recovery_per_task(quantized, refused)
        drawn["flips"] = quality_plots.flips(quantized)
    several = {recipe: rows for recipe, rows in quantized.items() if _has_trials(rows)}
    if several:
        drawn["trials"] = quality_plots.trial_spread(several)
    return {name: canvas.data_uri(canvas.encode(figure)) for name, figure in drawn.items()}


def _has_trials(rows: Sequence[RecoveryRow]) -> bool:
    return any(len(row.trial_scores) > 1 for row in rows)


def _full_precision(deployment: Deployment) -> dict[str, float | None]:
    """Return task -> score of the uncompressed model."""
    every = [(quality.verdict, row) for quality in deployment.quality for row in quality.tasks]
    scores = {row.task: row.baseline_score for _, row in every if row.baseline_score is not None}
    own = {row.task: row.score for verdict, row in every if verdict == "reference"}
    return {**scores, **{task: score for task, score in own.items() if score is not None}}


def _workload(deployment: Deployment) -> str:
    load = deployment.slo.workload
    prompts = (
        "prompts from a file" if load.prompts else f"{_length(load.input_tokens)} input tokens"
    )
    prefix = f", {load.prefix_tokens:,} of them shared" if load.prefix_tokens else ""
    if load.prefixes > 1:
        prefix += f" ({load.prefixes:,} different prefixes)"
    chat = ", as a chat" if load.endpoint == "chat" else ""
    arrivals = {
        "poisson": "Poisson arrivals",
        "constant": "constant arrivals",
        "gamma": f"gamma arrivals (burstiness {load.burstiness:g})",
        "trace": "arrivals replayed from a trace",
    }[load.arrivals]
    return f"{prompts}{prefix}, {_length(load.output_tokens)} output tokens{chat}, {arrivals}"


def _length(length: Length | None) -> str:
    if length is None or isinstance(length, int):
        return _number(length, ",")
    if length.distribution == "trace":
        return "replayed"
    if length.distribution == "lognormal":
        return f"{length.min:,}–{length.max:,} (log-normal, mean {length.mean:,.0f})"
    return f"{length.min:,}–{length.max:,}"


def _objective_text(objective: Objective) -> str:
    return f"{plots.metric_title(objective.label)} ≤ {objective.max_ms:g} ms"


def _number(value: float | None, spec: str) -> str:
    return "–" if value is None else format(value, spec)


def _milliseconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def _size(value: int | None) -> str:
    if value is None:
        return "–"
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"


def _flag_text(flags: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in flags.items()) or "engine defaults"
