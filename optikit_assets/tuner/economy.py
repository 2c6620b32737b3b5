"""What spares a study machine time."""

from collections.abc import Sequence
from statistics import median

from optikit_assets.schemas import Trial
from optikit_assets.specs import SearchSpaceSpec, SloSpec

# Of the SLO's tolerance: a configuration that is better by less is no better to any search.
_MARGIN_SHARE = 0.5


def margin(space: SearchSpaceSpec, slo: SloSpec) -> float | None:
    """Return by which share above the best so far a limit is worth finding; None: every one is.

    Half of the SLO's tolerance: a search cannot tell less apart, and ties would be measured to the
    end.
    """
    return _MARGIN_SHARE * slo.budget.tolerance if space.economy.rejection else None


def worth_rps(space: SearchSpaceSpec, slo: SloSpec, best_rps: float | None) -> float:
    """Return the limit that makes a trial worth finishing; 0 if every trial is.

    Parameters
    ----------
    space, slo
        Whether trials may be dropped, and the tolerance of their search.
    best_rps
        Rate of the best so far on as many GPUs as the trial takes; None if there is none.
    """
    share = margin(space, slo)
    return 0.0 if best_rps is None or share is None else best_rps * (1.0 + share)


def start_costs(trials: Sequence[Trial]) -> float | None:
    """Return what starting a server costs, in trials under load.

    None where the trials so far do not say.
    """
    boots = [t.boot_seconds for t in trials if not t.retuned and t.boot_seconds]
    loads = [t.load_seconds for t in trials if t.load_seconds > 0]
    return median(boots) / median(loads) if boots and loads else None
