"""The graph, declared once: every stage and source, what it is partitioned by and what it needs."""

from dataclasses import dataclass

BASE_MODEL = "base_model"
RECIPE_SPEC = "recipe_spec"
SCENARIO_SPEC = "scenario_spec"
SEARCH_SPACE_SPEC = "search_space_spec"
CERTIFICATION_SPEC = "certification_spec"
EVALUATION_SPEC = "evaluation_spec"
ENGINE_SPEC = "engine_spec"
ENGINE_SUPPORT = "engine_support"
CALIBRATION_DATA = "calibration_data"
COMPRESS_RUNTIME = "compress_runtime"
SERVING_RUNTIME = "serving_runtime"
POOL_SPEC = "pool_spec"
QUANTIZED_MODEL = "quantized_model"
EVAL_SCORES = "eval_scores"
BENCHMARK_SWEEP = "benchmark_sweep"
TUNED_CONFIG = "tuned_config"
DEPLOYABLE_CONFIG = "deployable_config"


@dataclass(frozen=True)
class Declaration:
    """One asset of the graph.

    Parameters
    ----------
    needs
        Names of what it is made from, declared before it.
    optional
        Those of `needs` that it is made without where nobody asked for them.
    code_version
        Raised when a stage's code changes what it computes; part of every content key. A source
        that is only observed has none.
    by_hardware
        Whether its version depends on the kind of hardware of the pool that it is seen from,
        although it is not partitioned by pools.
    """

    name: str
    dimensions: tuple[str, ...]
    description: str
    needs: tuple[str, ...] = ()
    code_version: str | None = None
    optional: tuple[str, ...] = ()
    by_hardware: bool = False

    @property
    def observed(self) -> bool:
        """Whether its version is read from what is on disk, without anything being made."""
        return self.code_version is None


_DECLARED = (
    Declaration(
        COMPRESS_RUNTIME,
        (),
        "Fingerprint of what makes checkpoints: the distributions installed in the compress "
        "environment, and whether there is a GPU.",
        by_hardware=True,
    ),
    Declaration(
        SERVING_RUNTIME,
        ("pool",),
        "Fingerprint of what measures: the distributions installed in the serve environment, the "
        "variables that reach the engine, and the accelerators.",
    ),
    Declaration(
        POOL_SPEC,
        ("pool",),
        "Digest of what a pool's cards cost (recipes/hardware/): decisions follow from it, "
        "measurements do not.",
    ),
    Declaration(
        RECIPE_SPEC,
        ("recipe",),
        "Digest of the parsed, normalized recipe (recipes/quantization/), and of whether the "
        "default engine can serve it on this machine.",
        by_hardware=True,
    ),
    Declaration(
        SCENARIO_SPEC,
        ("scenario",),
        "Digest of what a rate search reads of the SLO: workload, objectives and budget "
        "(recipes/slos/).",
    ),
    Declaration(
        SEARCH_SPACE_SPEC,
        ("scenario",),
        "Digest of the search space that the SLO names (recipes/search_spaces/): studies draw from "
        "it, sweeps do not.",
    ),
    Declaration(
        CERTIFICATION_SPEC,
        ("slo",),
        "Digest of budget.certification of the SLO: decisions follow from it, searches do not.",
    ),
    Declaration(
        EVALUATION_SPEC,
        ("model",),
        "Digest of the model's evaluation suite with its task files, data and local judge.",
    ),
    Declaration(
        ENGINE_SPEC,
        ("model",),
        "Digest of the engine settings that hold for the model in every stage.",
    ),
    Declaration(
        ENGINE_SUPPORT,
        ("model", "recipe"),
        "Digest of whether the model's engine can serve the recipe on this machine; constant for "
        "the default engine, of which recipe_spec says so.",
    ),
    Declaration(
        CALIBRATION_DATA,
        ("model", "recipe"),
        "Digest of the calibration rows; constant for recipes that do not calibrate.",
    ),
    Declaration(
        BASE_MODEL,
        ("model",),
        "A model version on local disk; its data version is the digest of its weights and "
        "tokenizer.",
        code_version="1",
    ),
    Declaration(
        QUANTIZED_MODEL,
        ("model", "recipe"),
        "Candidate checkpoints of one recipe: N trials on distinct seeded calibration subsets "
        "(paper section 4.1).",
        needs=(BASE_MODEL, RECIPE_SPEC, ENGINE_SUPPORT, CALIBRATION_DATA, COMPRESS_RUNTIME),
        code_version="2",
    ),
    Declaration(
        EVAL_SCORES,
        ("model", "recipe"),
        "Scores of every candidate and of the baseline, their paired comparison, and the "
        "representative q* (paper sections 4.2 and 5.3).",
        needs=(BASE_MODEL, QUANTIZED_MODEL, EVALUATION_SPEC, ENGINE_SPEC, SERVING_RUNTIME),
        code_version="3",
    ),
    Declaration(
        BENCHMARK_SWEEP,
        ("model", "scenario"),
        "Highest rate at which q* meets the SLO with engine defaults (paper section 4.3).",
        needs=(QUANTIZED_MODEL, EVAL_SCORES, SCENARIO_SPEC, ENGINE_SPEC, SERVING_RUNTIME),
        code_version="4",
    ),
    Declaration(
        TUNED_CONFIG,
        ("model", "scenario"),
        "Engine flags with the highest SLO-compliant rate per GPU, drawn from a model; trial 0 is "
        "the engine's default (paper section 4.4, eq. 2).",
        needs=(
            BENCHMARK_SWEEP,
            EVAL_SCORES,
            SCENARIO_SPEC,
            SEARCH_SPACE_SPEC,
            ENGINE_SPEC,
            SERVING_RUNTIME,
        ),
        code_version="5",
    ),
    Declaration(
        DEPLOYABLE_CONFIG,
        ("model", "slo"),
        "The certified configuration to deploy: bundle with the engine's file, "
        "deployment.json and report.html; status infeasible if nothing meets the SLO.",
        needs=(
            BASE_MODEL,
            EVAL_SCORES,
            BENCHMARK_SWEEP,
            TUNED_CONFIG,
            CERTIFICATION_SPEC,
            POOL_SPEC,
        ),
        optional=(TUNED_CONFIG,),
        code_version="6",
    ),
)

GRAPH = {item.name: item for item in _DECLARED}
"""Every asset by its name, upstream first."""
OBSERVED = tuple(item.name for item in _DECLARED if item.observed)
STAGES = tuple(item.name for item in _DECLARED if not item.observed)
