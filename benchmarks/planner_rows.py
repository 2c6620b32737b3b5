"""The measured rows of the public data set that the planner is validated on, as `planner.rows`.

Rows are left out, and counted, whose parallelism their columns do not tell (attention split by
data, experts on more cards than the rest, or more cards than a node has), and those that only
repeat another one's numbers.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from optikit_assets.planner.architecture import Architecture
from optikit_assets.planner.precision import FULL, SCHEMES, Precision, Scheme
from optikit_assets.planner.roofline import Layout
from optikit_assets.planner.rows import Row, Work
from optikit_assets.settings import REPOSITORY
from optikit_assets.specs import Catalog

FILE = Path("gpu_measurements") / "silicon_sample.csv"
_MODELS = Path(__file__).parent / "planner_models.yaml"
_CARDS_OF_A_NODE = 8
_SAME = 1e-3
_MXFP4 = Scheme(4.25, "fp4")
_SCHEMES = {
    "bf16": FULL,
    "fp8": SCHEMES["FP8"],
    "fp8_block": SCHEMES["FP8"],
    "nvfp4": SCHEMES["NVFP4"],
    "int4_wo": SCHEMES["W4A16"],
}


@dataclass(frozen=True)
class Measured:
    """A row with what it is of."""

    row: Row
    engine: str
    version: str
    model: str
    system: str
    precision: str
    day: str

    @property
    def work(self) -> Work:
        """The closed loop."""
        return self.row.work

    @property
    def kind(self) -> str:
        """Dense, or with experts."""
        return "experts" if self.work.architecture.experts else "dense"

    @property
    def configuration(self) -> tuple[Any, ...]:
        """What repeats have in common."""
        return self.engine, self.version, *self.measured_at[1:]

    @property
    def measured_at(self) -> tuple[Any, ...]:
        """What rows with the same numbers have in common: all but the engine's version."""
        work = self.work
        return (
            self.engine, self.model, self.system, self.precision, work.layout,
            work.clients, work.input_tokens, work.output_tokens,
        )  # fmt: skip

    @property
    def throughput(self) -> float:
        """Output tokens per second and card."""
        work = self.work
        return work.clients * work.output_tokens / self.row.latency_s / work.layout.cards


def architectures() -> dict[str, Architecture]:
    """Return the models of the rows and those of the paper, by name."""
    found: dict[str, Architecture] = {}
    for name, config in yaml.safe_load(_MODELS.read_text(encoding="utf-8")).items():
        kinds, layers = config.get("layer_types"), config["num_hidden_layers"]
        whole = {**config, "layer_types": (kinds * layers)[:layers]} if kinds else config
        found[name] = Architecture.of(whole, f"{_MODELS.name}: {name}")
    return found


def read_rows(data: Path) -> tuple[list[Measured], dict[str, int]]:
    """Return the rows that can be used, and why others cannot with how many there are of them."""
    frame = pd.read_csv(data / FILE)
    models, cards = architectures(), Catalog.load(REPOSITORY / "recipes").cards
    left_out: Counter[str] = Counter()
    found: list[Measured] = []
    for entry in frame.to_dict("records"):
        system = entry["system"].removesuffix("_sxm")
        if entry["mode"] != "agg":
            left_out["prefill and decode on different servers"] += 1
        elif entry["tp_size"] > _CARDS_OF_A_NODE:
            left_out["more cards than a node has"] += 1
        elif entry["attention_dp_size"] > 1:
            left_out["attention split by data in a way that the columns do not tell"] += 1
        elif entry["moe_tp_size"] * entry["moe_ep_size"] > entry["tp_size"]:
            left_out["experts on more cards than tp_size says"] += 1
        elif entry["model_path"] not in models or system not in cards:
            left_out["model or card without a data sheet"] += 1
        else:
            architecture = models[entry["model_path"]]
            found.append(_measured(entry, architecture, cards[system]))
    kept = list(_without_copies(found))
    left_out["the same numbers again"] = len(found) - len(kept)
    return kept, dict(left_out)


def _measured(entry: dict[Any, Any], architecture: Architecture, card: Any) -> Measured:
    name, label = _precision(entry)
    ttft_s, tpot_s = entry["silicon_ttft_ms"] / 1e3, entry["silicon_tpot_ms"] / 1e3
    work = Work(
        architecture,
        name,
        card,
        Layout(int(entry["tp_size"])),
        float(entry["batch_size"]),
        float(entry["isl"]),
        float(entry["osl"]),
    )
    latency_s = ttft_s + tpot_s * (entry["osl"] - 1)
    source = str(entry["silicon_data_source"])
    day = source.partition("measured=")[2][:10]
    return Measured(
        Row(work, latency_s, ttft_s, f"{entry['model_path']} on {card.name}"),
        entry["backend"],
        str(entry["backend_version"]),
        entry["model_path"],
        card.name,
        label,
        day,
    )


def _precision(entry: dict[Any, Any]) -> tuple[Precision, str]:
    """Return how a row's checkpoint is stored; where it does not say so, as it is published."""
    engine, model = entry["backend"], entry["model_path"]
    given = entry["gemm_quant_mode"]
    published = "fp8" if model.endswith("FP8") or model.startswith("deepseek") else "bf16"
    layers = given if isinstance(given, str) else published
    if model.startswith("openai/gpt-oss"):
        return Precision(((1.0, FULL),), _MXFP4), "mxfp4"
    if layers == "int4_wo":
        return Precision(((1.0, FULL),), _SCHEMES[layers]), layers
    # TensorRT-LLM keeps the cache of quantized checkpoints in eight bits.
    cache_bits = 8 if engine == "trtllm" and layers != "bf16" else 16
    given = entry["moe_quant_mode"]
    experts = given if isinstance(given, str) else layers
    return Precision(((1.0, _SCHEMES[layers]),), _SCHEMES[experts], cache_bits), layers


def _without_copies(rows: Iterable[Measured]) -> Iterable[Measured]:
    """Leave out rows that have another's configuration and its times within a thousandth."""
    seen: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        times = seen.setdefault(row.measured_at, [])
        if all(abs(row.row.latency_s / time - 1.0) > _SAME for time in times):
            times.append(row.row.latency_s)
            yield row
