"""Asset checks of the specs: which files of ``recipes/`` are broken, with file, key and range.

The sensor for edits reports them as files change; in the UI they can be executed as well.
"""

from collections.abc import Iterator

import dagster as dg

from optikit_assets.graph import (
    ENGINE_SPEC,
    EVALUATION_SPEC,
    RECIPE_SPEC,
    SCENARIO_SPEC,
)
from optikit_assets.specs import Catalog
from resources import ModelRegistryResource

CHECK = "files"
CHECKED = {
    RECIPE_SPEC: ("quantization",),
    SCENARIO_SPEC: ("slos", "search_spaces", "hardware", "hardware/cards"),
    EVALUATION_SPEC: ("evaluations",),
    ENGINE_SPEC: ("models", "jobs"),
}
"""Observable asset -> the folders whose files are shown at it."""


def evaluations(catalog: Catalog) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield what every check says of the files as they are now."""
    for asset in CHECKED:
        result = _result(asset, catalog)
        yield dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(asset),
            check_name=CHECK,
            passed=result.passed,
            metadata=result.metadata,
            severity=result.severity,
            description=result.description,
        )


def _result(asset: str, catalog: Catalog) -> dg.AssetCheckResult:
    folders = CHECKED[asset]
    broken = [error for folder in folders for error in catalog.broken[folder].values()]
    count = sum(len(catalog.names(folder)) for folder in folders)
    records = [
        dg.TableRecord({"file": error.file, "problem": problem})
        for error in broken
        for problem in error.problems
    ]
    return dg.AssetCheckResult(
        check_name=CHECK,
        asset_key=dg.AssetKey(asset),
        passed=not broken,
        severity=dg.AssetCheckSeverity.ERROR,
        description="; ".join(map(str, broken))[:1000] or f"all {count} files can be used",
        metadata={"broken": dg.MetadataValue.table(records)} if records else {},
    )


def _check(asset: str) -> dg.AssetChecksDefinition:
    shown = ", ".join(f"recipes/{folder}/" for folder in CHECKED[asset])

    @dg.asset_check(
        asset=dg.AssetKey(asset), name=CHECK, description=f"Every file of {shown} can be used."
    )
    def check(models: ModelRegistryResource) -> dg.AssetCheckResult:
        return _result(asset, models.catalog())

    return check


SPEC_CHECKS = [_check(asset) for asset in CHECKED]
