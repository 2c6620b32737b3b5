r"""Which pool to deploy on: the one that serves a million tokens at the least cost.

Notation: a pool's best configuration serves :math:`r` requests per second and card under the SLO, a
request has :math:`n` input and output tokens, and a card costs :math:`p` per hour. Then a million
tokens cost

.. math:: c = \frac{p}{3600 r} \cdot \frac{10^6}{n}.

A card reads and writes in the same hour, and nothing that is measured says how they share it. So
input, or output, alone is charged the whole of it, with :math:`n` the input, or the output, tokens
of a request: each is what there is to pay if the other is free, and they do not add up.

Where no pool has a price, they are compared by :math:`r` alone; one without a price comes after all
that have one.

Certification takes accelerator time, so not every pool is certified. A search gives its rate with
an interval, and the upper end of it is what certification could find at best. Pools are certified
from the cheapest by the rates that their searches found, and those are left out that could not
become cheaper than the best that was certified.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optikit_assets.schemas import Certification, PoolOffer
from optikit_assets.specs import SloSpec

_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class Contender:
    """A pool before certification.

    Attributes
    ----------
    claimed_per_gpu
        Highest rate per card that a search found on it, of what may be deployed; 0: none.
    at_best_per_gpu
        Highest upper end of such a rate.
    """

    pool: str
    accelerator: str
    price_per_hour: float | None
    claimed_per_gpu: float
    at_best_per_gpu: float
    recipe: str | None = None
    tuned: bool | None = None
    gpus: int | None = None
    reason: str = ""


def costs_per_million(
    rate_per_gpu: float, price_per_hour: float | None, slo: SloSpec
) -> dict[str, float | None]:
    """Return what a million tokens cost: of all, of input and of output, each the whole card hour.

    By the names that `PoolOffer` has for them; None without a price, a rate or that length.
    """
    read, written = slo.workload.mean_input_tokens, slo.workload.mean_output_tokens
    of_request = {
        "cost_per_million_tokens": None if read is None else read + written,
        "cost_per_million_input_tokens": read,
        "cost_per_million_output_tokens": written,
    }
    if price_per_hour is None or not rate_per_gpu:
        return dict.fromkeys(of_request)
    request = price_per_hour / (_SECONDS_PER_HOUR * rate_per_gpu)
    return {name: request * 1e6 / tokens if tokens else None for name, tokens in of_request.items()}


def certify_cheapest(
    contenders: Sequence[Contender], certify: Callable[[str], Certification]
) -> tuple[str, dict[str, Certification]]:
    """Return the pool to deploy on, and what certification found on those that were tried.

    Parameters
    ----------
    contenders
        One per pool, of which at least one; equals are taken in this order.
    certify
        Called once for a pool, and not for every one.
    """

    def expense(contender: Contender, rate_per_gpu: float) -> tuple[bool, float]:
        price = contender.price_per_hour
        return price is None, (1.0 if price is None else price) / rate_per_gpu

    able = [c for c in contenders if c.claimed_per_gpu] or [contenders[0]]
    if len(able) > 1:
        able.sort(key=lambda c: expense(c, c.claimed_per_gpu))
    found: dict[str, Certification] = {}
    best: tuple[tuple[bool, float], str] | None = None
    for contender in able:
        if best is not None and best[0] <= expense(contender, contender.at_best_per_gpu):
            continue
        seen = found[contender.pool] = certify(contender.pool)
        if seen.rate_per_gpu:
            here = (expense(contender, seen.rate_per_gpu), contender.pool)
            best = here if best is None or here[0] < best[0] else best
    return able[0].pool if best is None else best[1], found


def offers(
    contenders: Sequence[Contender], found: Mapping[str, Certification], chosen: str, slo: SloSpec
) -> tuple[PoolOffer, ...]:
    """Return what every pool serves at which cost, and what stands behind it."""
    return tuple(_offer(c, found.get(c.pool), c.pool == chosen, slo) for c in contenders)


def _offer(
    contender: Contender, seen: Certification | None, chosen: bool, slo: SloSpec
) -> PoolOffer:
    common: dict[str, Any] = {
        "pool": contender.pool,
        "accelerator": contender.accelerator,
        "price_per_hour": contender.price_per_hour,
    }

    def priced(rate_per_gpu: float) -> dict[str, Any]:
        return {**common, **costs_per_million(rate_per_gpu, contender.price_per_hour, slo)}

    arm = None if seen is None else seen.candidate
    if seen is not None and arm is not None and seen.rate_per_gpu:
        return PoolOffer(
            evidence="confirmed",
            recipe=arm.recipe,
            tuned=arm.tuned,
            gpus=arm.gpus,
            rate_per_gpu=seen.rate_per_gpu,
            deployed=chosen,
            **priced(seen.rate_per_gpu),
        )
    if seen is not None and contender.claimed_per_gpu:
        return PoolOffer(evidence="refuted", reason=seen.summary, **common)
    if not contender.claimed_per_gpu:
        return PoolOffer(evidence="measured", reason=contender.reason, **common)
    return PoolOffer(
        evidence="measured",
        recipe=contender.recipe,
        tuned=contender.tuned,
        gpus=contender.gpus,
        rate_per_gpu=contender.claimed_per_gpu,
        reason="by its search, which leaves no room for a lower cost than what is deployed",
        **priced(contender.claimed_per_gpu),
    )


def comparison(found: Sequence[PoolOffer]) -> str:
    """Say in a sentence where the deployed pool stands among the others; empty for one pool."""
    best = next((offer for offer in found if offer.deployed), None)
    others = [offer for offer in found if offer is not best]
    if best is None or not others:
        return ""
    against = "; ".join(f"{offer.pool} {_numbers(offer)}" for offer in others)
    return f"Pool {best.pool} {_numbers(best)}; {against}."


def _numbers(offer: PoolOffer) -> str:
    if offer.rate_per_gpu is None:
        return "meets the SLO at no rate"
    how = "" if offer.evidence == "confirmed" else " by its search"
    cost = offer.cost_per_million_tokens
    priced = "" if cost is None else f", {cost:.3g} per million tokens"
    return f"serves {offer.rate_per_gpu:.3g} requests/s per GPU{how}{priced}"
