import io
import json
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from optikit_assets.deployment import ReportData, Series, arms_table, write_bundle
from optikit_assets.schemas import DEPLOYMENT_FILE
from optikit_assets.specs import Workload
from tests.unit.deployment import samples
from tests.unit.deployment.samples import Servers, outcome
from tests.unit.schemas.samples import benchmark, probe


class Page(HTMLParser):
    """Collects visible text, references, and checks that tags are balanced."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, html):
        super().__init__()
        self.references, self.words, self.open = [], [], []
        self.feed(html)
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.references += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)


def written(tmp_path, deployment, evidence=None):
    feasible = deployment.status == "feasible"
    return write_bundle(tmp_path, deployment, samples.CONFIG if feasible else None, evidence)


def page(tmp_path, deployment, evidence=None):
    return Page(written(tmp_path, deployment, evidence).report.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_bundle_has_configuration_record_and_report(tmp_path):
    bundle = written(tmp_path, samples.deployment(), samples.evidence())
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "deployment.json",
        "report.html",
        "vllm.yaml",
    ]
    assert bundle.config is not None
    assert bundle.config.read_text() == samples.CONFIG.text


@pytest.mark.slow
def test_record_survives_a_round_trip(tmp_path):
    deployment = samples.deployment()
    content = json.loads(written(tmp_path, deployment).record.read_text(encoding="utf-8"))
    assert content["schema_version"] == 2
    assert DEPLOYMENT_FILE.load(content, "deployment.json") == deployment


def test_record_tells_rate_gain_and_proof():
    deployment = samples.deployment()
    assert deployment.status == "feasible"
    assert (deployment.recipe, deployment.tuned) == ("int_w8a8", True)
    assert deployment.certified_rate_rps == 7.5
    assert deployment.rate_ci_rps == (7.3, 7.7)
    assert deployment.gain.estimate == pytest.approx(7.5 / 3.52)
    assert 1.0 < deployment.gain.low < deployment.gain.estimate < deployment.gain.high
    assert deployment.gain.probes == 2 * 4 * 4
    assert deployment.gain_over_baseline == deployment.gain.estimate
    assert deployment.checkpoint_digest == "sha256:int_w8a8"
    assert deployment.certification.overload_verdict == "fail"
    assert [arm.deployed for arm in deployment.arms.rows()] == [False, False, False, True]


def test_record_ships_what_is_proven_and_not_what_was_searched():
    capacity = samples.claims(samples.outcomes()) | {"int_w8a8, tuned": 6.0}
    deployment = samples.deployment(servers=Servers(capacity))
    assert deployment.recipe == "fp8_dynamic"
    assert deployment.certified_rate_rps == 6.95
    reasons = {r.recipe: r.reason for r in deployment.rejections}
    assert reasons["int_w8a8"].startswith(
        "certification: refuted at 7.5 requests/s, confirmed at 6"
    )
    assert deployment.arms.quantization_and_tuning.recipe == "fp8_dynamic"


@pytest.mark.slow
def test_where_no_gain_is_proven_the_plain_baseline_ships_and_it_is_said(tmp_path):
    capacity = dict.fromkeys(samples.claims(samples.outcomes()), 4.0)
    deployment = samples.deployment(servers=Servers(capacity))
    assert (deployment.recipe, deployment.tuned) == ("baseline", False)
    assert deployment.gain.model_dump() == {"estimate": 1.0, "low": 1.0, "high": 1.0, "probes": 16}
    assert deployment.tuned_flags == {}
    assert "No gain over the plain baseline was proven" in deployment.summary
    assert "No gain over the plain baseline was proven" in page(tmp_path, deployment).text
    assert "no gain over the plain baseline was proven, so it ships" in " ".join(
        shown(deployment).split()
    )


def test_gain_is_undefined_when_the_baseline_misses_the_slo():
    deployment = samples.deployment([outcome("baseline"), outcome("a", 3.0, 4.0)])
    assert deployment.status == "feasible"
    assert deployment.gain_over_baseline is None


def test_feasible_deployment_without_configuration_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"needs its configuration"):
        write_bundle(tmp_path, samples.deployment())
    assert list(tmp_path.iterdir()) == []


def test_infeasible_bundle_has_no_configuration_but_says_what_came_closest(tmp_path):
    deployment = samples.deployment(samples.infeasible_outcomes())
    bundle = written(tmp_path, deployment, ReportData())
    assert bundle.config is None
    assert not (tmp_path / "vllm.yaml").exists()
    assert deployment.status == "infeasible"
    assert deployment.certification.status == "not_attempted"
    text = Page(bundle.report.read_text(encoding="utf-8")).text
    assert "No configuration of Qwen2.5-7B-Instruct@1 can be deployed" in text
    assert "e2e_latency_p95 is 540 ms, bound 500 ms" in text
    assert "vllm serve" not in text


def test_measured_but_uncertified_is_infeasible_with_the_misses():
    claims = samples.claims(samples.outcomes())
    servers = Servers(claims, broken=dict.fromkeys(claims, "the server exited"))
    deployment = samples.deployment(servers=servers)
    assert deployment.status == "infeasible"
    assert deployment.summary.startswith("No arm held a rate on fresh servers: baseline")
    assert "int_w8a8, tuned: refuted at 7.5 requests/s: the server exited" in deployment.closest


@pytest.mark.slow
def test_report_shows_every_arms_evidence_and_the_probes_behind_it(tmp_path):
    capacity = samples.claims(samples.outcomes()) | {"baseline, engine defaults": 3.2}
    text = page(tmp_path, samples.deployment(servers=Servers(capacity)), samples.evidence()).text
    for expected in ("confirmed", "measured", "3.52 req/s, refuted", "fresh probes", "round 3"):
        assert expected in text


@pytest.mark.slow
def test_report_is_self_contained(tmp_path):
    html = written(tmp_path, samples.deployment(), samples.evidence()).report.read_text("utf-8")
    references = Page(html).references
    assert len(references) == 11
    assert all(reference.startswith("data:image/svg+xml;base64,") for reference in references)
    assert not re.search(r"https?://|@import|url\(", html)


@pytest.mark.slow
def test_report_names_what_to_run_and_at_which_rate(tmp_path):
    text = page(tmp_path, samples.deployment(), samples.evidence()).text
    for expected in (
        "Deploy Qwen2.5-7B-Instruct@1 as int_w8a8 with tuned flags",
        "vllm serve --config vllm.yaml",
        "python -m vllm.server --config vllm.yaml",
        "max-num-seqs: 48",
        "7.5 req/s held on fresh servers; its search found",
        "2.13×",
        "End-to-end latency p95 ≤ 500 ms",
        "1,200 input tokens, 200 of them shared, 80 output tokens",
        "IFEval recovery 91.8 %",
        "30 trials",
        "CUDA out of memory",
        "7 probes of baseline",
    ):
        assert expected in text


def test_report_escapes_what_comes_from_outside(tmp_path):
    nasty = "<script>alert(1)</script>"
    found = [outcome("baseline", 3.0, 4.0), outcome("a", accepted=False, reasons=(nasty,))]
    html = written(tmp_path, samples.deployment(found)).report.read_text(encoding="utf-8")
    assert nasty not in html
    assert "&lt;script&gt;alert(1)" in html


@pytest.mark.slow
def test_report_tells_an_unbounded_percentile_from_a_missing_one(tmp_path):
    late = probe(rate_rps=9.0, verdict="fail", latency_ms={"e2e_latency_p95": None})
    evidence = ReportData(series=(Series(label="x", benchmark=benchmark(probes=(late,))),))
    assert "unbounded" in page(tmp_path, samples.deployment(), evidence).text


@pytest.mark.slow
def test_report_without_objectives_is_throughput_oriented(tmp_path):
    slo = samples.CHAT.model_copy(update={"objectives": ()})
    text = page(tmp_path, samples.deployment(slo=slo), samples.evidence()).text
    assert "throughput-oriented: the highest steady rate." in text


@pytest.mark.slow
def test_report_words_a_workload_of_distributions(tmp_path):
    workload = Workload.model_validate(
        {
            "input_tokens": {"distribution": "lognormal", "mean": 500, "std": 300, "max": 2000},
            "output_tokens": {"distribution": "uniform", "min": 50, "max": 250},
            "arrivals": "gamma",
            "burstiness": 0.25,
            "endpoint": "chat",
        }
    )
    slo = samples.CHAT.model_copy(update={"workload": workload})
    assert (
        "1–2,000 (log-normal, mean 500) input tokens, 50–250 output tokens, as a chat, "
        "gamma arrivals (burstiness 0.25)"
    ) in page(tmp_path, samples.deployment(slo=slo)).text


def test_report_of_a_run_without_evidence_says_what_is_missing(tmp_path):
    found = [outcome("baseline", 3.0, 4.0)]
    text = page(tmp_path, samples.deployment(found)).text
    assert "Deploy Qwen2.5-7B-Instruct@1 as baseline with tuned flags" in text
    assert "No tuning trial was run." in text
    assert "No quantized model was evaluated." in text


def shown(deployment, width=78):
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(
        arms_table(deployment, "bundles/qwen")
    )
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def test_terminal_table_of_a_feasible_deployment():
    assert shown(samples.deployment()) == (
        """\
Qwen2.5-7B-Instruct@1 under chat

                                       Rate per
 Arm                      Recipe            GPU               Gain  Evidence
 ────────────────────────────────────────────────────────────────────────────
   Baseline               baseline        3.520              1.00×  confirmed
   Quantization only      int_w8a8        5.960              1.69×  measured
   Tuning only            baseline        6.790  1.93× (1.84–2.02)  confirmed
 → Quantization + tuning  int_w8a8        7.500  2.13× (2.09–2.17)  confirmed

Certified: 7.5 requests/s, at least 2.09 times the plain baseline's.
Bundle: bundles/qwen"""
    )


def test_terminal_table_of_an_infeasible_deployment():
    text = shown(samples.deployment(samples.infeasible_outcomes()))
    assert text.count("* SLO not met") == 4
    assert "→" not in text
    assert "Infeasible: No configuration that passed the quality gate meets" in text
    assert "Closest: int_w8a8, tuned: at 0.5 requests/s" in " ".join(text.split())
