"""The sensor that has what is deployed measured again on another engine than it was certified on.

What is deployed is what the ledger says (`optikit promote`), in whichever channels. A search is not
repeated for an upgrade: whether the certificate still stands is a question of a few servers.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from optikit_assets import graph
from optikit_assets.artifacts import open_store
from optikit_assets.defs.automation import FOR_MODELS
from optikit_assets.defs.deployment.recertified_config import RECERTIFIED_CONFIG
from optikit_assets.defs.deployment.shipped import engine_in, engine_versions, versions_told
from optikit_assets.defs.partitions import multi_partition_key
from optikit_assets.engines import get_engine
from optikit_assets.environments.status import inspect_environment
from optikit_assets.errors import OptikitError
from optikit_assets.graph import Key, Node
from optikit_assets.headless.promotion import current_decisions
from optikit_assets.headless.requesting import RETRIES, Pause, pause_after, run_key
from optikit_assets.schemas import DEPLOYMENT_FILE, Deployment
from optikit_assets.settings import settings
from optikit_assets.specs import digest
from resources.history import open_history

UPGRADE_TAG = "optikit/engine-upgrade"
"""Of a run: the digest of the bundle and of the engine versions that it was requested for."""

_IN_VAIN = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)

RECERTIFY_JOB = dg.define_asset_job(
    "recertify",
    selection=[RECERTIFIED_CONFIG],
    description="Measures what was certified again; what the sensor for engine upgrades requests.",
)


@dataclass(frozen=True)
class Upgraded:
    """A deployed bundle, the engine it was certified on, and the one that is installed now."""

    bundle_key: str
    deployment: Deployment
    certified: Mapping[str, str]
    installed: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Of what a measurement is asked for."""
        return digest([self.bundle_key, dict(self.installed)])

    @property
    def text(self) -> str:
        """What changed under what, in words."""
        here = self.deployment
        return (
            f"{here.model_key} under SLO {here.slo.name}, certified on "
            f"{versions_told(self.certified)}, and here is {versions_told(self.installed)}"
        )


@dg.sensor(
    name="engine_upgrades",
    job=RECERTIFY_JOB,
    minimum_interval_seconds=60,
    default_status=FOR_MODELS,
    description="Requests a re-certification of every deployed bundle (optikit promote) whose "
    "engine has another version in the serve environment of this machine than when it was "
    "certified: once for each version, a failed one twice more, and not if somebody measured it "
    "with that already.",
)
def engine_upgrades(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Request what the engine that is installed now was not certified with."""
    if settings().executor == "ray":
        return dg.SensorResult(
            skip_reason="workers run on a cluster, whose engines nobody compares from here: "
            "`optikit recertify` measures what is deployed there"
        )
    requests: list[dg.RunRequest] = []
    told: list[str] = []
    for found in upgraded(told):
        asked = dg.RunsFilter(tags={UPGRADE_TAG: found.digest})
        earlier = context.instance.get_run_records(asked, limit=RETRIES + 1)
        if pause := _pause(earlier):
            told.append(f"{found.text}: {pause.text}")
            continue
        told.append(f"{found.text}: requested")
        requests.append(_request(found, [record.dagster_run for record in earlier]))
    said = "; ".join(told) or "everything deployed was measured on the engine of now"
    if requests:
        context.log.info(said)
        return dg.SensorResult(run_requests=requests)
    return dg.SensorResult(skip_reason=said)


def _pause(earlier: Sequence[dg.RunRecord]) -> Pause | None:
    """Return why an upgrade that runs were requested for, the latest first, is not requested."""
    if earlier and (latest := earlier[0].dagster_run).status not in _IN_VAIN:
        return Pause(f"{latest.status.value} (run {latest.run_id})")
    return pause_after(earlier, time.time())


def upgraded(told: list[str]) -> list[Upgraded]:
    """Return every deployed bundle that nobody measured on the engine which is installed now.

    Parameters
    ----------
    told
        Gets a line for each that nothing is known of, or that nothing can be measured with yet.
    """
    store = open_store(settings().store, settings().home)
    serve = inspect_environment(settings().envs_home, "serve")
    found: list[Upgraded] = []
    deployed = {here.bundle_key: here for here in current_decisions()}
    for bundle_key, here in sorted(deployed.items()):
        try:
            bundle = store.get(bundle_key)
            deployment = DEPLOYMENT_FILE.read(bundle)
            engine = get_engine(deployment.engine)
        except OptikitError as error:
            told.append(str(error))
            continue
        if None not in (here.bundle_digest, bundle.digest) and here.bundle_digest != bundle.digest:
            told.append(f"{here.slot}: bundle {bundle_key[:12]}… was made anew since, as another")
            continue
        certified = engine_versions(engine, deployment.versions)
        installed = engine_in(engine, settings().envs_home)
        # Without an environment there is nothing to measure with.
        if not installed or certified == installed or _measured(bundle_key, installed):
            continue
        one = Upgraded(bundle_key, deployment, certified, installed)
        if serve.usable:
            found.append(one)
        else:
            # Distributions are there before an installation is complete.
            told.append(
                f"{one.text}: waits for the serve environment, which is {serve.state}: "
                f"{serve.reason}; run: {serve.what_to_do}"
            )
    return found


def _measured(bundle_key: str, installed: Mapping[str, str]) -> bool:
    """Return whether a bundle was measured on these versions of an engine before."""
    rows = open_history(settings()).query(
        "SELECT CAST(versions AS MAP(VARCHAR, VARCHAR)) AS versions FROM recertifications "
        "WHERE bundle_key = $key",
        {"key": bundle_key},
    )
    return any(installed.items() <= dict(row).items() for row in rows["versions"])


def _request(found: Upgraded, earlier: Sequence[dg.DagsterRun]) -> dg.RunRequest:
    here = found.deployment
    node = Node(graph.DEPLOYABLE_CONFIG, Key(here.model_key, slo=here.slo.name))
    config = {"bundle": found.bundle_key}
    return dg.RunRequest(
        run_key=run_key(found.digest, earlier),
        partition_key=multi_partition_key(node),
        run_config={"ops": {RECERTIFIED_CONFIG: {"config": config}}},
        tags={UPGRADE_TAG: found.digest},
    )
