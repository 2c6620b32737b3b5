"""Jobs beside the graph: evaluate a running server, and one checkpoint many times over.

Both run the suite in the evaluate worker, keep the artifact and append to the history. Neither
makes an asset: a server is not a version of anything, and repeating is what assets avoid.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from optikit_assets import clock
from optikit_assets.artifacts import Reference
from optikit_assets.artifacts.file_digests import FileDigests
from optikit_assets.artifacts.references import LocalKind
from optikit_assets.defs.evaluation.candidates import checkpoint_key, read_comparison
from optikit_assets.defs.evaluation.history import score_columns
from optikit_assets.defs.evaluation.scoring import evaluate
from optikit_assets.defs.recorded import recorded
from optikit_assets.errors import ResultMissingError, StageError
from optikit_assets.execution import on_some_node
from optikit_assets.freshness import artifact_of, pinned_suite
from optikit_assets.graph import EVAL_SCORES, Key, Node, pool_part
from optikit_assets.schemas import Result
from optikit_assets.settings import settings
from optikit_assets.specs import BASELINE, LOCAL, Catalog, EngineSpec, SuiteSpec, digest, load_spec
from optikit_assets.specs.endpoint_address import CREDENTIALS_VARIABLE, url_to_keep
from optikit_assets.stateval.endpoint import served_model
from optikit_assets.stateval.scores import EvaluatedCandidate, TaskScore, load_candidate
from optikit_assets.workers.messages import Candidate, EvaluateRequest, EvaluateResult
from resources import (
    ArtifactStoreResource,
    HistoryResource,
    ModelRegistryResource,
    PoolRunner,
    StageRunnerResource,
)


class EndpointConfig(dg.Config):
    """Which server to evaluate."""

    base_url: str = Field(
        description="OpenAI-compatible endpoint, up to and including /v1, without credentials: "
        f"they come from {CREDENTIALS_VARIABLE} (USER:PASSWORD), else a key from OPENAI_API_KEY."
    )
    model: str = Field(description="Model name as the endpoint knows it.")
    suite: str = Field(description="Suite name or suite file.")
    chat: bool | None = Field(default=None, description="Chat endpoint; unset: as the suite says.")
    tokenizer: str | None = Field(default=None, description="Folder that holds tokenizer.json.")
    seed: int = Field(default=1234, description="Sent with every request.")


class RepeatabilityConfig(dg.Config):
    """What to evaluate how often."""

    model: str = Field(description="NAME or NAME@VERSION.")
    recipe: str = Field(default=BASELINE, description="Its representative q* is evaluated.")
    suite: str = Field(default="", description="Suite name or suite file; unset: the model's.")
    times: int = Field(default=10, ge=2, le=1000, description="Number of evaluations.")
    deterministic: bool = Field(default=True, description="The engine's deterministic mode.")
    pool: str = Field(default=LOCAL, description="Hardware pool that the evaluations run on.")
    seed: int = Field(default=1234, description="The same for every evaluation.")


def find_suite(catalog: Catalog, name_or_file: str) -> tuple[SuiteSpec, Path | None]:
    """Return a suite, with what it has from a hub at a commit, and its task folder."""
    file = Path(name_or_file)
    if file.suffix not in (".yaml", ".yml"):
        suite, folder = catalog.suite(name_or_file), catalog.task_folder(name_or_file)
    else:
        suite = load_spec(file, SuiteSpec)
        folder = None if suite.task_folder is None else file.parent / suite.task_folder
    return pinned_suite(suite, folder, name_or_file), folder


class EndpointScores(Result):
    """Scores of a server by task, and the folder that holds every answer."""

    artifact: str
    suite: str
    model: str
    seed: int
    settings: dict[str, Any]
    versions: dict[str, str]
    tasks: tuple[TaskScore, ...]


@dg.op(description="Scores of a model behind an OpenAI-compatible endpoint.")
def evaluate_server(
    context: dg.OpExecutionContext,
    config: EndpointConfig,
    models: ModelRegistryResource,
    artifacts: ArtifactStoreResource,
    history: HistoryResource,
    runner: StageRunnerResource,
) -> EndpointScores:
    """Evaluate, remember, and return the scores by task."""
    suite, folder = find_suite(models.catalog(), config.suite)
    if config.chat is not None:
        suite = suite.model_copy(update={"apply_chat_template": config.chat})
    base_url = url_to_keep(
        config.base_url,
        called="base_url",
        kept="in the run config (delete this run)",
        variable=CREDENTIALS_VARIABLE,
    )
    served_model(base_url, config.model)
    key = digest(["endpoint", context.run_id])
    started_at = clock.now()
    tokenizer = _shared(artifacts, "tree", config.tokenizer, "tokenizer")
    request = EvaluateRequest(
        store=artifacts.url,
        suite=suite,
        task_folder=_shared(artifacts, "tree", folder, "task files"),
        candidates=(Candidate(trial=0, model=tokenizer, artifact_key=key),),
        engine=EngineSpec(),
        seed=config.seed,
        backend="endpoint",
        base_url=base_url,
        endpoint_model=config.model,
    )
    # Its address and the credentials for it hold here. It has its own accelerators: the worker,
    # which needs none, is no reason to go to another machine.
    here = runner.here()
    try:
        result = on_some_node(
            here.executor,
            0,
            lambda lease: here.run(context, "evaluate", request, EvaluateResult, lease),
        )
    except ResultMissingError:
        if artifacts.find(key) is None:
            raise
    else:
        if result.failed:
            raise StageError(f"{base_url}: {result.failed[0]}")
    found = load_candidate(artifacts.store.get(key).folder(), 0, key)
    rows = [
        {
            **_common(context, here, found, key, started_at),
            "model": config.model,
            **columns,
        }
        for columns in score_columns(found)
    ]
    history.append("evaluation_scores", rows)
    history.drain()
    return EndpointScores(
        artifact=artifacts.store.get(key).where,
        suite=found.suite,
        model=config.model,
        seed=found.seed,
        settings=found.settings,
        versions=found.versions,
        tasks=tuple(task.summary for task in found.tasks),
    )


@dg.op(description="Scores of one checkpoint, evaluated several times with the same settings.")
def evaluate_repeatedly(
    context: dg.OpExecutionContext,
    config: RepeatabilityConfig,
    models: ModelRegistryResource,
    artifacts: ArtifactStoreResource,
    history: HistoryResource,
    runner: StageRunnerResource,
) -> str:
    """Evaluate, remember, and return the content key of the series."""
    catalog = models.catalog()
    registry = models.registry(catalog)
    version = registry.resolve(config.model)
    spec = catalog.model(version.name)
    suite, folder = find_suite(catalog, config.suite or spec.suite)
    if catalog.recipe(config.recipe).name == BASELINE:
        model = _shared(artifacts, "model", registry.fetch(version).path, f"model {version.key}")
    else:
        model = _representative(context.instance, artifacts, version.key, config.recipe)
    series = digest(["repeatability", context.run_id])
    candidates = [
        Candidate(trial=n, model=model, artifact_key=digest([series, n]))
        for n in range(config.times)
    ]
    started_at = clock.now()
    request = EvaluateRequest(
        store=artifacts.url,
        suite=suite,
        task_folder=_shared(artifacts, "tree", folder, "task files"),
        candidates=tuple(candidates),
        engine=spec.engine,
        trust_remote_code=spec.trust_remote_code,
        seed=config.seed,
        deterministic=config.deterministic,
    )
    where = runner.on(pool_part(catalog.pool(config.pool).name))
    failed = evaluate(context, where, artifacts, request)
    if failed:
        raise StageError(
            f"{len(failed)} of {config.times} evaluations failed: {next(iter(failed.values()))}"
        )
    found = [
        load_candidate(artifacts.store.get(c.artifact_key).folder(), c.trial, c.artifact_key)
        for c in candidates
    ]
    history.append(
        "repeatability_runs",
        [
            {
                **_common(context, where, run, series, started_at),
                "model": version.key,
                "recipe": config.recipe,
                "repetition": run.trial,
                "suite": run.suite,
                "task": task.title,
                "score": task.summary.score,
                "items": task.summary.n,
                "changed_responses": changed_responses(found[0], run, task.title),
                "deterministic": config.deterministic,
                "settings": run.settings,
                "artifact_key": run.artifact_key,
            }
            for run in found
            for task in run.tasks
        ],
    )
    history.drain()
    return series


def changed_responses(first: EvaluatedCandidate, other: EvaluatedCandidate, title: str) -> int:
    """Return how many items of a task were answered in other words than at first."""
    before = {item.doc_id: item.response for item in first.task(title).items}
    return sum(item.response != before[item.doc_id] for item in other.task(title).items)


def _representative(
    instance: dg.DagsterInstance, artifacts: ArtifactStoreResource, model_key: str, recipe: str
) -> Reference:
    """Return the checkpoint of q*."""
    node = Node(EVAL_SCORES, Key(model_key, recipe))
    known = recorded(instance, node)
    evaluation = artifact_of(artifacts.store, known)
    comparison = read_comparison(evaluation)
    key = checkpoint_key(evaluation, comparison) if evaluation and comparison else None
    if key is None:
        raise StageError(
            f"{node} has no representative checkpoint: run optikit optimize with this recipe first"
        )
    return artifacts.store.get(key).reference


def _shared(
    artifacts: ArtifactStoreResource, kind: LocalKind, path: Path | str | None, what: str
) -> Reference | None:
    """Return what every node finds of a path of this machine, None if there is no path.

    Raises
    ------
    StageError
        If it cannot be read.
    """
    if not path:
        return None
    try:
        reference = Reference.to(path, kind, what, FileDigests(settings().digests))
    except OSError as error:
        raise StageError(f"{what} {path} cannot be read: {error.strerror}") from error
    return artifacts.store.share(reference)


def _common(
    context: dg.OpExecutionContext,
    runner: PoolRunner,
    found: EvaluatedCandidate,
    content_key: str,
    started_at: datetime,
) -> dict[str, Any]:
    return {
        "content_key": content_key,
        "seed": found.seed,
        "versions": found.versions,
        "accelerator": runner.hardware.accelerator,
        "run_id": context.run_id,
        "started_at": started_at,
        "ended_at": clock.now(),
    }


@dg.job(description="Evaluate a server that already runs.")
def evaluate_endpoint() -> None:
    """Run one suite against an OpenAI-compatible endpoint."""
    evaluate_server()


@dg.job(description="Evaluate one checkpoint several times: the paper's Table 4.")
def repeatability() -> None:
    """Run one suite on the same checkpoint again and again."""
    evaluate_repeatedly()
