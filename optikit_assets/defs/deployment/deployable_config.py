"""Stage 6: choose the recipe, certify its rate, write the deploy bundle."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from optikit_assets import clock, graph
from optikit_assets.artifacts import Artifact
from optikit_assets.defs.benchmarking.recording import remember_benchmarks
from optikit_assets.defs.body import Partition
from optikit_assets.defs.deployment.fresh_servers import all_flags
from optikit_assets.defs.deployment.leases import leases_of
from optikit_assets.defs.deployment.outcomes import report_data
from optikit_assets.defs.deployment.places import Place, certification_seed
from optikit_assets.defs.deployment.publication import bundle_of
from optikit_assets.defs.evaluation.candidates import representative_of
from optikit_assets.defs.partitions import declared
from optikit_assets.delivery import deploy_files, serving_plan
from optikit_assets.deployment import (
    ConfigFile,
    build_deployment,
    certify_cheapest,
    offers,
    write_bundle,
)
from optikit_assets.deployment.bundle import REPORT_FILE
from optikit_assets.deployment.four_arms import gain_text
from optikit_assets.engines import Flags
from optikit_assets.errors import StageError
from optikit_assets.graph import pool_name
from optikit_assets.history import RowsByTable
from optikit_assets.publishing import Published
from optikit_assets.schemas import DEPLOYMENT_FILE, Certification, Deployment, PoolOffer
from optikit_assets.settings import settings
from optikit_assets.specs import BASELINE, LOCAL
from optikit_assets.workers.manifests import BenchmarkMaking
from resources import (
    ArtifactStoreResource,
    HistoryResource,
    ModelRegistryResource,
    PublisherResource,
    StageRunnerResource,
    UpstreamResource,
)


@dg.asset(
    **declared(graph.DEPLOYABLE_CONFIG),
    kinds={"gpu"},
)
def deployable_config(
    context: dg.AssetExecutionContext,
    models: ModelRegistryResource,
    artifacts: ArtifactStoreResource,
    history: HistoryResource,
    runner: StageRunnerResource,
    publisher: PublisherResource,
    upstream: UpstreamResource,
) -> dg.MaterializeResult:
    """Choose among the recipes that passed the gate, certify, write the bundle."""
    looked_at = upstream.bring(context)
    partition = Partition(context, models, artifacts, history, runner)
    partition.require_current(looked_at)
    with partition.turn():
        artifact = artifacts.store.find_complete(partition.key)
        cached = artifact is not None
        artifact = artifact or _decide(partition)
    deployment = DEPLOYMENT_FILE.read(artifact)
    _remember(partition, deployment, artifact)
    bundle = bundle_of(partition, deployment, artifact)
    published = publisher.publisher.publish(bundle, partition.model_key, partition.slo)
    return partition.result(
        status=deployment.status,
        cached=cached,
        artifact=artifact,
        metadata={**_metadata(partition, deployment, artifact, published), **_left_out(partition)},
        pool=deployment.pool,
    )


def _decide(partition: Partition) -> Artifact:
    slo = partition.slo_spec
    # Before the views of other pools are made: what it was decided from is the same for all.
    recipes, _ = _recipes(partition), partition.key
    trials = itertools.count()
    places = {
        pool_name(pool): Place.of(partition.on(pool), slo, recipes[pool], trials)
        for pool in recipes
    }
    contenders = [place.contender for place in places.values()]
    chosen, certified = certify_cheapest(contenders, lambda pool: places[pool].certify())
    place = places[chosen]
    told = (
        offers(contenders, certified, chosen, slo)
        if len(places) > 1 or chosen != LOCAL or place.contender.price_per_hour is not None
        else ()
    )
    certification = certified[chosen]
    deployment, config = _record(place, certification, told)
    best = next((e for e in place.evaluated if e.outcome.recipe == deployment.recipe), None)
    best = best or next(e for e in place.evaluated if e.outcome.recipe == BASELINE)
    with place.partition.keep() as draft:
        drawn = report_data(place.evaluated, best, deployment, leases_of(partition))
        write_bundle(draft.path, deployment, config, drawn, _manifests(partition, deployment))
        draft.references.update(_served_checkpoint(partition, deployment))
    return partition.artifacts.store.get(partition.key)


def _manifests(partition: Partition, deployment: Deployment) -> dict[str, str]:
    """Return how it is run elsewhere; nothing of what cannot be deployed."""
    if deployment.status != "feasible":
        return {}
    engine = partition.engine
    return deploy_files(deployment, engine, serving_plan(deployment, engine))


def _recipes(partition: Partition) -> dict[str | None, list[str]]:
    """Return the recipes to choose from on every pool.

    The baseline is one of them, or nothing compares.
    """
    taking_part = partition.versions.participants(partition.node)
    found = {pool: recipes for pool, recipes in taking_part.items() if BASELINE in recipes}
    if not found:
        pool = next(iter(taking_part), None)
        nodes = graph.results_of(partition.node.on(pool).key, BASELINE)
        # What it needs comes before what it can be decided without.
        why = next(why for node in nodes if (why := partition.versions.why_left_out(node)))
        raise StageError(f"{partition.node} needs the results of {BASELINE} first: {why}")
    return found


def _record(
    place: Place, certification: Certification, told: Sequence[PoolOffer]
) -> tuple[Deployment, ConfigFile | None]:
    partition, slo, outcomes = place.partition, place.slo, place.outcomes
    chosen = certification.candidate
    flags: Flags = {}
    config = None
    served = BenchmarkMaking()
    if chosen is not None:
        candidate = representative_of(partition, chosen.recipe)
        flags = all_flags(partition, slo, candidate, chosen.flags)
        engine = partition.engine
        store = partition.artifacts.store
        # Where several machines serve it, each puts in its own folder: see `bundle_of`.
        alone = store.shared_log is None
        model = str(store.local(candidate.model)) if alone else candidate.model.symbol
        text = engine.config_text(flags, model=model, served_model_name=partition.model_key)
        config = ConfigFile(
            engine.config_file, text, engine.commands_on(partition.runner.hardware.kind)
        )
        served = place.servers.made.get(chosen.label, served)
    name, version = graph.split_model(partition.model_key)
    recorded = {node: partition.versions.recorded(node) for node in partition.inputs}
    deployment = build_deployment(
        model=name,
        model_version=version,
        model_digest=partition.base.digest,
        slo=slo,
        outcomes=outcomes,
        selection=place.selection,
        certification=certification,
        flags=flags,
        accelerator=served.accelerator or partition.runner.hardware.label,
        engine=partition.engine.name,
        versions=served.versions,
        environment=served.environment,
        left_out=partition.versions.left_out(partition.node),
        pool=partition.node.key.pool,
        pools=told,
        server_start_s=served.server_start_s,
        accelerator_kind=served.hardware and served.hardware.kind,
        run_ids={str(n): r.run_id for n, r in recorded.items() if r and r.run_id}
        | {str(partition.node): partition.context.run.run_id},
        content_keys={str(node): version for node, version in partition.inputs.items()}
        | {str(partition.node): partition.key},
        created_at=clock.now(),
    )
    return deployment, config


def _served_checkpoint(partition: Partition, deployment: Deployment) -> Mapping[str, str | None]:
    """Return the checkpoint that the bundle points to; none for the base model."""
    if deployment.status != "feasible" or deployment.recipe in (None, BASELINE):
        return {}
    return representative_of(partition, deployment.recipe).references


def _remember(partition: Partition, deployment: Deployment, artifact: Artifact) -> None:
    partition.remember(artifact, lambda: _rows(partition, deployment, artifact))


def _rows(partition: Partition, deployment: Deployment, artifact: Artifact) -> RowsByTable:
    remember_benchmarks(partition, partition.slo_spec, artifact)
    chosen = next((q for q in deployment.quality if q.recipe == deployment.recipe), None)
    yield (
        "deployments",
        [
            partition.row(
                artifact,
                slo=partition.slo,
                pool=deployment.pool,
                pools=[offer.model_dump(mode="json") for offer in deployment.pools] or None,
                seed=certification_seed(partition, deployment.pool),
                versions=deployment.versions,
                status=deployment.status,
                chosen_recipe=deployment.recipe,
                certified_rate_rps=deployment.certified_rate_rps,
                rate_per_gpu=deployment.certified_rate_per_gpu,
                gpus=deployment.gpus,
                baseline_rate_rps=deployment.arms.baseline.rate_rps,
                **_gain_columns(deployment),
                confirmations=[
                    a.model_dump(mode="json") for a in deployment.certification.attempts
                ],
                flags=deployment.flags,
                bundle_path=artifact.where,
                quality_verdict=chosen.verdict if chosen else None,
                mean_recovery=chosen.mean_recovery if chosen else None,
                reason=deployment.summary,
                artifact_key=artifact.key,
            )
        ],
    )


def _gain_columns(deployment: Deployment) -> dict[str, Any]:
    gain = deployment.gain
    return {
        "tuned": deployment.tuned,
        "gain": gain and gain.estimate,
        "gain_low": gain and gain.low,
        "gain_high": gain and gain.high,
        "gain_probes": gain and gain.probes,
        "arms": [arm.model_dump(mode="json") for arm in deployment.arms.rows()],
    }


def _left_out(partition: Partition) -> dict[str, Any]:
    """Name the recipes whose results take no part now, whenever this was decided."""
    reasons = partition.versions.left_out(partition.node)
    if not reasons:
        return {}
    records = [dg.TableRecord({"recipe": name, "why": why}) for name, why in reasons.items()]
    return {"left_out": dg.MetadataValue.table(records)}


def _metadata(
    partition: Partition, deployment: Deployment, artifact: Artifact, published: Published
) -> dict[str, Any]:
    from optikit_assets.deployment.arm_plots import four_arms
    from optikit_assets.deployment.canvas import markdown_image

    records = [
        dg.TableRecord(
            {
                "arm": arm.title,
                "recipe": arm.recipe or "–",
                "status": arm.status,
                "rate_per_gpu": "–" if arm.rate_per_gpu is None else f"{arm.rate_per_gpu:.3f}",
                "gain": gain_text(arm) or "–",
                "evidence": arm.evidence,
            }
        )
        for arm in deployment.arms.rows()
    ]
    metadata: dict[str, Any] = {
        "summary": deployment.summary,
        "recipe": deployment.recipe or "none",
        "certified_rate_rps": deployment.certified_rate_rps or 0.0,
        "arms": dg.MetadataValue.table(records),
        "four_arms": dg.MetadataValue.md(
            markdown_image(four_arms(deployment.arms), "the four arms")
        ),
        "bundle": dg.MetadataValue.path(published.where),
        # A browser opens no file:// link of a page; `optikit reports` serves this one.
        "report": dg.MetadataValue.url(f"{settings().reports}/{artifact.key}/{REPORT_FILE}"),
        "report_file": dg.MetadataValue.path(str(artifact.file(REPORT_FILE))),
    }
    if deployment.status == "feasible":
        file = artifact.file(partition.engine.config_file)
        metadata["engine_config"] = dg.MetadataValue.path(str(file))
    if deployment.gain is not None:
        metadata["gain_over_baseline"] = round(deployment.gain.estimate, 3)
        metadata["gain_at_least"] = round(deployment.gain.low, 3)
    if deployment.closest:
        metadata["closest"] = deployment.closest
    return {**metadata, **_pools(deployment)}


def _pools(deployment: Deployment) -> dict[str, Any]:
    """Say what every pool serves at which cost; nothing where there is none to speak of."""
    if not deployment.pools:
        return {}
    costs = (
        "cost_per_million_tokens",
        "cost_per_million_input_tokens",
        "cost_per_million_output_tokens",
    )
    shown = ("pool", "recipe", "rate_per_gpu", "price_per_hour", *costs)
    records = [
        dg.TableRecord(
            {
                **{name: _shown(getattr(offer, name)) for name in shown},
                "evidence": offer.evidence,
                "deployed": offer.deployed,
            }
        )
        for offer in deployment.pools
    ]
    best = next((offer for offer in deployment.pools if offer.deployed), None)
    known = {} if best is None else {name: getattr(best, name) for name in ("pool", *costs)}
    return {
        "pools": dg.MetadataValue.table(records),
        **{name: value for name, value in known.items() if value is not None},
    }


def _shown(value: str | float | None) -> str:
    return "–" if value is None else value if isinstance(value, str) else f"{value:.4g}"
