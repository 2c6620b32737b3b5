"""The workload of an SLO: what requests look like and how they arrive (``docs/workloads.md``)."""

import math
from statistics import NormalDist
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Discriminator, Field, Tag, model_validator

from optikit_assets.specs.base import SpecModel
from optikit_assets.specs.prompt_file import PromptFile
from optikit_assets.specs.traces import MAX_TOKENS, TraceFile

ArrivalProcess = Literal["poisson", "constant", "gamma", "trace"]
Endpoint = Literal["completions", "chat"]


class UniformLength(SpecModel):
    """Every length from ``min`` to ``max`` is as likely."""

    distribution: Literal["uniform"] = Field(description="Selects this distribution.")
    min: int = Field(ge=1, le=MAX_TOKENS, description="Shortest, in tokens.")
    max: int = Field(ge=1, le=MAX_TOKENS, description="Longest, in tokens.")

    @model_validator(mode="after")
    def _ordered(self) -> "UniformLength":
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) must be at least min ({self.min})")
        return self


class LogNormalLength(SpecModel):
    """Log-normal with the given mean and standard deviation, then clipped to ``min`` … ``max``."""

    distribution: Literal["lognormal"] = Field(description="Selects this distribution.")
    mean: float = Field(gt=0, description="Mean before clipping, in tokens.")
    std: float = Field(gt=0, description="Standard deviation before clipping, in tokens.")
    min: int = Field(default=1, ge=1, le=MAX_TOKENS, description="Shorter ones become this long.")
    max: int = Field(ge=1, le=MAX_TOKENS, description="Longer ones become this long.")

    @model_validator(mode="after")
    def _ordered(self) -> "LogNormalLength":
        if not self.min <= self.mean <= self.max:
            raise ValueError(
                f"mean ({self.mean:g}) must lie between min ({self.min}) and max ({self.max})"
            )
        return self

    @property
    def log_std(self) -> float:
        """Standard deviation σ of the logarithm."""
        return math.sqrt(math.log1p((self.std / self.mean) ** 2))

    @property
    def log_mean(self) -> float:
        """Mean μ of the logarithm."""
        return math.log(self.mean) - self.log_std**2 / 2

    @property
    def clipped_mean(self) -> float:
        """Mean after clipping: a·P(X<a) + b·P(X>b) + E[X; a ≤ X ≤ b]."""
        sigma, cdf = self.log_std, NormalDist().cdf
        low, high = ((math.log(x) - self.log_mean) / sigma for x in (self.min, self.max))
        between = self.mean * (cdf(high - sigma) - cdf(low - sigma))
        return self.min * cdf(low) + self.max * (1.0 - cdf(high)) + between


class TraceLength(SpecModel):
    """The length in the trace's row, clipped to ``min`` … ``max``."""

    distribution: Literal["trace"] = Field(description="Selects this distribution.")
    min: int = Field(default=1, ge=1, le=MAX_TOKENS, description="Shorter ones become this long.")
    max: int = Field(
        default=MAX_TOKENS, ge=1, le=MAX_TOKENS, description="Longer ones become this long."
    )

    @model_validator(mode="after")
    def _ordered(self) -> "TraceLength":
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) must be at least min ({self.min})")
        return self


def _kind(value: Any) -> Any:
    """Return which alternative of `Length` a value is meant to be."""
    if isinstance(value, dict):
        return value.get("distribution")
    return getattr(value, "distribution", "")


Length = Annotated[
    # No name in messages for what is a plain number in the file.
    Annotated[int, Field(ge=1, le=MAX_TOKENS), Tag("")]
    | Annotated[UniformLength, Tag("uniform")]
    | Annotated[LogNormalLength, Tag("lognormal")]
    | Annotated[TraceLength, Tag("trace")],
    Discriminator(
        _kind,
        custom_error_type="distribution",
        custom_error_message="distribution must be 'uniform', 'lognormal' or 'trace'",
    ),
]
"""Length of a prompt or an answer in tokens: a number, or a distribution."""


class Workload(SpecModel):
    """What one request looks like and how requests arrive."""

    input_tokens: Length | None = Field(
        default=None,
        description="Prompt length in tokens, exact, required without prompts; with prompts: the "
        "longest one's, if known.",
    )
    output_tokens: Length = Field(description="Generated tokens, exact.")
    prefix_tokens: int = Field(
        default=0,
        ge=0,
        description="How many of input_tokens requests share (a system prompt).",
    )
    prefixes: int = Field(
        default=1,
        ge=1,
        le=10_000,
        description="Different shared prefixes; each probe's warm-up sends every one of them.",
    )
    arrivals: ArrivalProcess = Field(
        default="poisson", description="Arrival process of the open-loop probes."
    )
    burstiness: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="Shape of gamma arrivals: 1 is Poisson, less is burstier.",
    )
    trace: TraceFile | None = Field(
        default=None, description="Trace that arrivals or lengths come from, a .csv or .jsonl file."
    )
    prompts: PromptFile | None = Field(
        default=None, description="Prompts to send instead of made-up ones, a .jsonl file."
    )
    endpoint: Endpoint = Field(
        default="completions", description="What is asked: /completions or /chat/completions."
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Workload":
        self._check_prompts()
        if self.prefix_tokens and self.prefix_tokens >= (shortest := self.min_input_tokens):
            raise ValueError(
                f"prefix_tokens ({self.prefix_tokens}) must be less than input_tokens ({shortest})"
            )
        if self.prefixes > 1 and not self.prefix_tokens:
            raise ValueError(f"prefixes ({self.prefixes}) needs prefix_tokens")
        if self.burstiness != 1.0 and self.arrivals != "gamma":
            raise ValueError(
                f"burstiness ({self.burstiness:g}) goes with arrivals: gamma, not {self.arrivals}"
            )
        replayed = [
            key
            for key, value in (
                ("arrivals", self.arrivals == "trace"),
                ("input_tokens", isinstance(self.input_tokens, TraceLength)),
                ("output_tokens", isinstance(self.output_tokens, TraceLength)),
            )
            if value
        ]
        if replayed and self.trace is None:
            raise ValueError(f"{', '.join(replayed)} from a trace: needs trace: FILE")
        if self.trace is not None and not replayed:
            raise ValueError(
                "trace is given but not used: set arrivals: trace, or input_tokens or "
                "output_tokens to {distribution: trace}"
            )
        return self

    def _check_prompts(self) -> None:
        if self.prompts is None:
            if self.input_tokens is None:
                raise ValueError("input_tokens is required unless prompts are given")
            return
        if not isinstance(self.input_tokens, int | None):
            raise ValueError(
                "input_tokens beside prompts is the length of the longest prompt: a number"
            )
        if self.prefix_tokens:
            raise ValueError(
                f"prefix_tokens ({self.prefix_tokens}) does not go with prompts, which share what "
                "they share"
            )
        if self.prompts.chat and self.endpoint != "chat":
            raise ValueError("prompts with messages need endpoint: chat")

    @property
    def shared_prefixes(self) -> int:
        """How many prefixes are shared; 0 where prompts share nothing."""
        return self.prefixes if self.prefix_tokens else 0

    @property
    def min_input_tokens(self) -> int:
        """Length of the shortest prompt that may be made; 1 for prompts from a file."""
        if self.prompts is not None or self.input_tokens is None:
            return 1
        return self.input_tokens if isinstance(self.input_tokens, int) else self.input_tokens.min

    @property
    def max_input_tokens(self) -> int | None:
        """Length of the longest prompt; None for prompts from a file of unknown length."""
        return None if self.input_tokens is None else self._longest(self.input_tokens, "input")

    @property
    def mean_input_tokens(self) -> int | None:
        """Mean prompt length, rounded; None for prompts from a file."""
        if self.prompts is not None or self.input_tokens is None:
            return None
        return round(self._mean(self.input_tokens, "input"))

    @property
    def max_output_tokens(self) -> int:
        """Length of the longest answer."""
        longest = self._longest(self.output_tokens, "output")
        own = [row.output_tokens for row in self.prompts.rows()] if self.prompts else []
        return max((longest if tokens is None else tokens for tokens in own), default=longest)

    @property
    def mean_output_tokens(self) -> int:
        """Mean length of an answer, rounded."""
        mean = self._mean(self.output_tokens, "output")
        own = [row.output_tokens for row in self.prompts.rows()] if self.prompts else []
        return round(
            math.fsum(mean if tokens is None else tokens for tokens in own) / len(own)
            if own
            else mean
        )

    def _longest(self, length: Length, what: Literal["input", "output"]) -> int:
        if isinstance(length, int):
            return length
        if isinstance(length, TraceLength):
            longest = int(self._replayed(what).max())
            return min(max(longest, length.min), length.max)
        return length.max

    def _mean(self, length: Length, what: Literal["input", "output"]) -> float:
        match length:
            case int():
                return length
            case UniformLength():
                return (length.min + length.max) / 2
            case LogNormalLength():
                return length.clipped_mean
            case TraceLength():
                return float(np.clip(self._replayed(what), length.min, length.max).mean())

    def _replayed(self, what: Literal["input", "output"]) -> "np.ndarray[Any, np.dtype[np.int64]]":
        assert self.trace is not None
        trace = self.trace.trace()
        return trace.input_tokens if what == "input" else trace.output_tokens
