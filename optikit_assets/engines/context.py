"""The context length that a workload needs, and whether the model has it."""

from optikit_assets.engines.model_facts import ModelFacts
from optikit_assets.errors import ModelError
from optikit_assets.specs import SloSpec


def context_length(
    slo: SloSpec, facts: ModelFacts | None = None, *, fixed: int | None = None, source: str = ""
) -> int:
    """Return the context length to serve a workload with.

    ``ceil(1.15 * (input + output))`` of the longest request (paper section 4.4), at most what the
    model knows; all of that where the length of prompts from a file is unknown.

    Parameters
    ----------
    slo
        Its workload.
    facts
        What the model knows.
    fixed
        Value of an engine flag that the model's spec sets; it wins.
    source
        How messages name that flag.

    Raises
    ------
    ModelError
        If the workload is longer than the model or that flag allows, or neither says how long a
        prompt may be.
    """
    limit = facts.max_positions if facts else None
    longest = slo.workload.max_input_tokens
    need = (longest or 0) + slo.workload.max_output_tokens
    allowed = limit if fixed is None else fixed
    if allowed is not None and need > allowed:
        what = "the model" if fixed is None else source
        raise ModelError(
            f"SLO {slo.name}: input_tokens + output_tokens = {need}, but {what} allows {allowed} "
            "tokens; shorten the workload or use a model with a longer context"
        )
    if fixed is not None:
        return fixed
    if longest is None:
        if limit is None:
            raise ModelError(
                f"SLO {slo.name}: the prompts' length is unknown, and so is the model's context: "
                "set input_tokens to the longest prompt's"
            )
        return limit
    # Integers only: 1.15 * n is not exact in floating point.
    wanted = -(-115 * need // 100)
    return wanted if limit is None else min(wanted, limit)
