# ruff: noqa: E501 (tables read better with one case per line)
"""A bad spec file stops with file, key path, value and what would be allowed."""

from pathlib import Path

import pytest
import yaml

from optikit_assets.errors import SpecError
from optikit_assets.specs import RecipeSpec, SearchSpaceSpec, SloSpec, SuiteSpec, load_spec
from tests.unit.specs.conftest import RECIPE, Write

SPARSE = {"type": "sparsegpt"}
GPTQ = {"type": "gptq", "scheme": "W8A8"}
RTN = {"type": "rtn", "scheme": "W8A8"}
AUTOROUND = {"type": "autoround", "scheme": "W4A16"}


def problems(file: Path, kind: type = RecipeSpec) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_spec(file, kind, shown_as="recipes/quantization/int_w8a8.yaml")
    assert str(caught.value).startswith("recipes/quantization/int_w8a8.yaml: ")
    assert "\n" not in str(caught.value)
    return caught.value.problems


def test_a_good_file_loads(write: Write) -> None:
    recipe = load_spec(write(), RecipeSpec)
    assert [modifier.type for modifier in recipe.modifiers] == ["smoothquant", "gptq"]
    assert recipe.trials == 5


def test_a_file_is_what_it_holds_at_every_load(write: Write) -> None:
    before = load_spec(write(), RecipeSpec)
    edited = load_spec(write(RECIPE.replace("trials: 5", "trials: 6")), RecipeSpec)
    assert (before.trials, edited.trials) == (5, 6)
    assert load_spec(write(), RecipeSpec) == before
    # The same text under another name is refused all the same.
    with pytest.raises(SpecError, match="must equal the file name 'other'"):
        load_spec(write(RECIPE, "quantization/other.yaml"), RecipeSpec)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("trials: 5", "trails: 5", "trails: unknown key (got 5)"),
        ("trials: 5", "trials: many", "trials: input should be a valid integer"),
        ("trials: 5", "trials: 0", "trials: input should be greater than or equal to 1 (got 0)"),
        ("trials: 5", "trials: 101", "trials: input should be less than or equal to 100 (got 101)"),
        ("trials: 5", "trials: 2.5", "trials: input should be a valid integer"),
        ("trials: 5", "trials: true", "trials: input should be a valid integer (got True)"),
        ("trials: 5", "trials: '5'", "trials: input should be a valid integer (got '5')"),
        ("strength: 0.8", "strength: yes", "input should be a valid number (got True)"),
        ("type: gptq, scheme: W8A8", "type: awq, duo_scaling: 1", "duo_scaling: input should be a valid boolean (got 1)"),
        ("description: example", "description: 2024-01-01", "description: input should be a valid string"),
        ("samples: 256", "samples: -1", "calibration.samples: input should be greater than or equal to 1"),
        ("samples: 256", "sample: 256", "calibration.sample: unknown key (got 256)"),
        ("sampler: random", "sampler: best", "calibration.sampler: no sampler of this name is installed; known: length_weighted, random, token_stratified"),
        ("strength: 0.8", "strength: 1.5", "input should be less than or equal to 1 (got 1.5)"),
        ("strength: 0.8", "strength: .nan", "input should be a finite number"),
        ("scheme: W8A8", "scheme: W9A9", "input should be 'W8A8', 'W8A8_STATIC'"),
        ("type: gptq", "type: magic", "modifiers.1: "),
        ("type: gptq, ", "", "modifiers.1: "),
        ("backend: llmcompressor", "backend: magic", "backend: no backend of this name is installed; known: autoround, llmcompressor, none; a package that registers others in optikit.backends has to be in the control and the compress environment (got 'magic')"),
        ("backend: llmcompressor\n", "", "backend: is required"),
        ("name: int_w8a8", "name: other", "name: 'other' must equal the file name 'int_w8a8'"),
        ("scheme: W8A8", "scheme: W8A8, actorder: group", "actorder: input should be 'static', 'weight' or 'none'"),
    ],
)  # fmt: skip
def test_each_problem_names_key_value_and_what_is_allowed(
    write: Write, old: str, new: str, expected: str
) -> None:
    assert old in RECIPE
    found = problems(write(RECIPE.replace(old, new)))
    assert any(expected in problem for problem in found), found


def test_unknown_modifier_lists_the_known_ones(write: Write) -> None:
    (problem,) = problems(write(RECIPE.replace("type: gptq", "type: magic")))
    assert "modifiers.1" in problem
    assert "'magic'" in problem
    for known in ("smoothquant", "gptq", "awq", "rtn"):
        assert f"'{known}'" in problem


@pytest.mark.parametrize("name", ["a@b", "a|b", "a,b", "a[b]", "a b", "a...b", "a/b", "a\tb", ".a"])
def test_characters_that_break_partition_keys_are_refused(write: Write, name: str) -> None:
    found = problems(write(RECIPE.replace("name: int_w8a8", f'name: "{name}"')))
    assert any(problem.startswith("name: ") and "may not contain" in problem for problem in found)


@pytest.mark.parametrize("name", ["''", "x" * 101, "5", "null"])
def test_empty_long_and_non_text_names_are_refused(write: Write, name: str) -> None:
    found = problems(write(RECIPE.replace("name: int_w8a8", f"name: {name}")))
    assert any(problem.startswith("name: ") for problem in found)


def test_a_key_that_appears_twice_is_refused_at_any_depth(write: Write) -> None:
    (top,) = problems(write(RECIPE + "trials: 7\n"))
    assert "key 'trials' appears twice" in top
    assert "line 9" in top
    nested = RECIPE.replace("samples: 256", "samples: 256, samples: 512")
    assert "key 'samples' appears twice" in problems(write(nested))[0]


def test_all_problems_of_a_file_come_at_once(write: Write) -> None:
    bad = (
        RECIPE.replace("name: int_w8a8", "name: other")
        .replace("trials: 5", "trials: 0\nextra: 1")
        .replace("samples: 256", "samples: lots")
    )
    found = problems(write(bad))
    assert len(found) == 4
    assert {problem.split(":")[0] for problem in found} == {
        "name",
        "trials",
        "extra",
        "calibration.samples",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "must be a mapping of keys, not NoneType"),
        ("- a\n- b\n", "must be a mapping of keys, not list"),
        ("name: [", "is not valid YAML"),
        ("name: !!python/object/apply:os.getcwd []\n", "is not valid YAML"),
        ("? [a]\n: b\n", "is not valid YAML"),
        ("? {a: 1}\n: b\n", "is not valid YAML"),
    ],
)
def test_files_that_are_no_mapping_are_refused(write: Write, text: str, expected: str) -> None:
    (problem,) = problems(write(text))
    assert expected in problem


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"cannot be read: No such file"):
        load_spec(tmp_path / "int_w8a8.yaml", RecipeSpec)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(SpecError, match=r"is not UTF-8 text"):
        load_spec(tmp_path / "binary.yaml", RecipeSpec)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"modifiers": []}, "needs at least one modifier"),
        ({"modifiers": [{"type": "smoothquant"}]}, "exactly one of gptq, awq, rtn is needed"),
        (
            {"modifiers": [{"type": "gptq", "scheme": "W8A8"}, {"type": "awq"}]},
            "or one of each; got ['gptq', 'awq']",
        ),
        ({"calibration": None, "trials": 1}, "need calibration"),
        (
            {"modifiers": [{"type": "rtn", "scheme": "FP8_DYNAMIC"}], "calibration": None},
            "trials must be 1, not 5",
        ),
        (
            {"modifiers": [{"type": "rtn", "scheme": "FP8"}], "calibration": None, "trials": 1},
            "need calibration",
        ),
        ({"backend": "none"}, "takes neither modifiers nor calibration"),
        (
            {"modifiers": [{"type": "gptq", "scheme": "W8A8", "group_size": 64}]},
            "scheme W8A8 has no groups",
        ),
        (
            {"modifiers": [{"type": "awq", "scheme": "FP8"}]},
            "duo_scaling",
        ),
        (
            {"modifiers": [{"type": "rtn", "scheme": "NVFP4"}], "calibration": None, "trials": 1},
            "need calibration",
        ),
        (
            {
                "modifiers": [RTN],
                "mixed_precision": {"scheme": "FP8_DYNAMIC", "share": 0.2},
                "calibration": None,
                "trials": 1,
            },
            "need calibration",
        ),
        ({"modifiers": [SPARSE, SPARSE]}, "or one of each; got ['sparsegpt', 'sparsegpt']"),
        ({"modifiers": [SPARSE, GPTQ]}, "gptq fills the zeros of sparsegpt again: use rtn"),
        ({"modifiers": [RTN, SPARSE]}, "rtn comes last"),
        ({"modifiers": [GPTQ, {"type": "smoothquant"}]}, "gptq comes last"),
        ({"modifiers": [{**SPARSE, "sparsity": 0.6}]}, "mask 2:4 has sparsity 0.5, not 0.6"),
        ({"modifiers": [SPARSE], "kv_cache": "fp8"}, "kv_cache and mixed_precision need one of"),
        ({"mixed_precision": {"scheme": "W8A8", "share": 0.2}}, "is that of all layers"),
        ({"modifiers": [AUTOROUND]}, "modifier autoround needs backend 'autoround'"),
        ({"backend": "autoround"}, "takes one modifier, autoround, not"),
        (
            {"backend": "autoround", "modifiers": [AUTOROUND], "kv_cache": "fp8"},
            "need backend 'llmcompressor'",
        ),
        ({"options": {"bits": 3}}, "only other packages' backends take any"),
        ({"requires": {"cpu_features": ["mmx"]}}, "Input should be 'avx2', 'avx512f'"),
        ({"calibration": {"samples": 8, "adaptive": {"max_rounds": 1}}}, "max_rounds"),
        (
            {"calibration": {"samples": 8, "adaptive": {"max_rounds": 2, "growth": 1}}},
            "growth 1 without samplers repeats the first round",
        ),
        (
            {"calibration": {"samples": 8, "adaptive": {"max_rounds": 2, "samplers": ["best"]}}},
            "no sampler of this name is installed",
        ),
    ],
)
def test_recipes_that_make_no_sense_are_refused(change: dict, expected: str) -> None:
    raw = {**yaml.safe_load(RECIPE), **change}
    with pytest.raises(ValueError, match=r"validation error") as caught:
        RecipeSpec.model_validate(raw)
    assert expected in str(caught.value)


def test_group_size_is_allowed_where_the_scheme_has_groups(write: Write) -> None:
    text = RECIPE.replace("scheme: W8A8", "scheme: W4A16, group_size: 64")
    assert load_spec(write(text), RecipeSpec).modifiers[1].group_size == 64  # type: ignore[union-attr]


SLO = "name: int_w8a8\nworkload: {input_tokens: 100, output_tokens: 10, prefix_tokens: 0}\n"


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        (SLO.replace("prefix_tokens: 0", "prefix_tokens: 100"), SloSpec, "workload: prefix_tokens (100) must be less than input_tokens (100)"),
        (SLO.replace("input_tokens: 100", "input_tokens: 0"), SloSpec, "workload.input_tokens: input should be greater than or equal to 1 (got 0)"),
        (SLO + "objectives: [{metric: ttft, percentile: 100, max_ms: 5}]\n", SloSpec, "objectives.0.percentile: input should be less than 100 (got 100)"),
        (SLO + "objectives: [{metric: speed, percentile: 50, max_ms: 5}]\n", SloSpec, "objectives.0.metric: input should be 'e2e_latency', 'ttft', 'tpot' or 'itl' (got 'speed')"),
        (SLO + "objectives: [{metric: ttft, percentile: 50, max_ms: 5}, {metric: ttft, percentile: 50, max_ms: 6}]\n", SloSpec, "objectives repeat a metric and percentile: ttft_p50, ttft_p50"),
        (SLO.replace("output_tokens: 10", "output_tokens: 1") + "objectives: [{metric: itl, percentile: 95, max_ms: 50}]\n", SloSpec, "objective itl_p95 bounds the time between tokens, of which an answer of workload.output_tokens (1) has none: ask for at least 2, or bound ttft or e2e_latency"),
        (SLO + "budget: {min_probe_seconds: 30, max_probe_seconds: 20}\n", SloSpec, "max_probe_seconds (20.0) must be at least min_probe_seconds (30.0)"),
        ("name: int_w8a8\nparameters: {Max-Seqs: {choices: [1]}}\n", SearchSpaceSpec, "flags are written with lower-case letters and _: Max-Seqs"),
        ("name: int_w8a8\nparameters: {a: {low: 9, high: 3}}\n", SearchSpaceSpec, "low (9) must not exceed high (3)"),
        ("name: int_w8a8\nparameters: {a: {choices: [1, 1]}}\n", SearchSpaceSpec, "choices repeat: [1, 1]"),
        ("name: int_w8a8\nparameters: {a: {low: 0, high: 3, log: true}}\n", SearchSpaceSpec, "log needs low >= 1"),
        ("name: int_w8a8\nparameters: {a: {choices: [1]}}\ntrials: 4\nstartup_trials: 4\n", SearchSpaceSpec, "startup_trials (4) must be less than trials (4)"),
        ("name: int_w8a8\nparameters: {a: {choices: [1, 2]}}\nconstraints: [a < b < 3]\n", SearchSpaceSpec, "'a < b < 3' is no constraint: write NAME <= NAME"),
        ("name: int_w8a8\nparameters: {a: {choices: [1, 2]}}\nconstraints: [a <= 3 B]\n", SearchSpaceSpec, "'3 B' is neither a parameter nor a number"),
        ("name: int_w8a8\nparameters: {a: {choices: [1, 2], when: {b: [1]}}}\n", SearchSpaceSpec, "parameters.a.when: b is no parameter of this space"),
        ("name: int_w8a8\nparameters: {a: {choices: [1, 2], when: {b: [1]}}, b: {choices: [1, 2], when: {a: [1]}}}\n", SearchSpaceSpec, "when goes round in a circle"),
        ("name: int_w8a8\ntasks: [{task: a, metrics: [x]}, {task: a, metrics: [x]}]\n", SuiteSpec, "task labels repeat: a, a"),
        ("name: int_w8a8\ntasks: [{task: a, metrics: [x], judge: endpoint}]\n", SuiteSpec, "judge: endpoint needs judge_endpoint and judge_model"),
        ("name: int_w8a8\ntasks: []\n", SuiteSpec, "tasks: "),
    ],
)  # fmt: skip
def test_other_kinds_of_spec_are_as_strict(
    write: Write, text: str, kind: type, expected: str
) -> None:
    found = problems(write(text), kind)
    assert any(expected in problem for problem in found), found
