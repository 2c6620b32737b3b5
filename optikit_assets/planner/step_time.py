"""How long one step of an engine takes, as numbers that a simulation can add up quickly."""

from dataclasses import dataclass

from optikit_assets.planner.fit import Fit
from optikit_assets.planner.roofline import UNITS, Roofline


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step: a constant, and so much per piece of work in it.

    Attributes
    ----------
    step_s, token_s, sequence_s, cached_s, pair_s
        As `roofline.UNITS`.
    expert_s
        Per routed expert that is touched.
    experts, experts_per_token
        Routed experts of a layer, and how many of them a token takes; 0: none.
    window, windowed_share
        Tokens that some layers look back, and their share.
    """

    step_s: float = 0.0
    token_s: float = 0.0
    sequence_s: float = 0.0
    cached_s: float = 0.0
    pair_s: float = 0.0
    expert_s: float = 0.0
    experts: int = 0
    experts_per_token: int = 0
    window: int = 0
    windowed_share: float = 0.0

    @classmethod
    def of(cls, roofline: Roofline, fit: Fit, factor: float = 1.0) -> "StepTime":
        """Return the step times that a fit predicts, all of them `factor` times as long."""
        seconds = (factor * fit.coefficients @ roofline.linear).tolist()
        model = roofline.architecture
        return cls(
            **{f"{unit}_s": value for unit, value in zip(UNITS, seconds, strict=True)},
            expert_s=factor * float(fit.coefficients[0]) * roofline.expert_s,
            experts=model.experts,
            experts_per_token=model.experts_per_token,
            window=model.window,
            windowed_share=model.windowed_share,
        )

    def seconds(self, tokens: int, pairs: float, sequences: int, cached: float) -> float:
        """Return the time of a step.

        Parameters
        ----------
        tokens
            Computed: those of prompts, and one of each sequence that decodes.
        pairs
            Of query and key in prompts.
        sequences
            That get a token from this step.
        cached
            Tokens in the cache of all sequences that decode.
        """
        seconds = (
            self.step_s
            + self.token_s * tokens
            + self.sequence_s * sequences
            + self.pair_s * pairs
            + self.cached_s * self._seen(sequences, cached)
        )
        if self.experts:
            untouched = (1.0 - self.experts_per_token / self.experts) ** tokens
            seconds += self.expert_s * self.experts * (1.0 - untouched)
        return seconds

    def growth_s(self, sequences: int) -> float:
        """Return by how much each further step of decoding takes longer than the one before."""
        return self.cached_s * sequences * (1.0 - self.windowed_share)

    def _seen(self, sequences: int, cached: float) -> float:
        if not self.windowed_share:
            return cached
        within = min(cached, float(sequences * self.window))
        return cached + self.windowed_share * (within - cached)
