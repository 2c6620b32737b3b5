"""Whether the server's answers are what was asked for; if not, their latencies tell nothing."""

import numpy as np

from optikit_assets.benchmarker.sample import Sample
from optikit_assets.specs.slo import SloSpec

# A server that miscounts once may have hiccuped; more often it does not do what was asked.
_MISCOUNTED_SHARE = 0.01
# So many answers in one piece are no accident.
_UNSTREAMED = 3


def miscounted(sample: Sample) -> str:
    """Return how the server's token counts differ from those asked for, or an empty string."""
    done = sample.completed
    total = int(done.sum())
    for what, counts, asked in (
        ("output", sample.output_tokens[done], sample.expected_output[done]),
        ("input", sample.input_tokens[done], sample.expected_input[done]),
    ):
        # -1: the server reports no usage, or the prompt's length is only known to it.
        wrong = (counts != asked) & (counts >= 0) & (asked >= 0)
        if int(wrong.sum()) > max(2.0, _MISCOUNTED_SHARE * total):
            return (
                f"{int(wrong.sum())} of {total} requests had another number of {what} tokens than "
                f"asked for (mean {float(np.mean(counts[wrong])):.1f} instead of "
                f"{float(np.mean(asked[wrong])):.1f}): "
                + (
                    "the server ignores ignore_eos or max_tokens"
                    if what == "output"
                    else "the server counts the prompt otherwise"
                )
            )
    return ""


def unstreamed(sample: Sample, slo: SloSpec) -> str:
    """Return which objective has nothing to go by as answers come whole, or an empty string."""
    labels = [o.label for o in slo.objectives if o.metric in ("tpot", "itl")]
    several = np.flatnonzero(sample.completed & (sample.output_tokens > 1)).tolist()
    if not labels or len(several) < _UNSTREAMED or any(sample.gaps_s[i] for i in several):
        return ""
    return (
        f"each of {len(several)} answers came in one piece, so there is no time between tokens for "
        f"{', '.join(labels)}: let the server stream token by token, or bound ttft or e2e_latency"
    )
