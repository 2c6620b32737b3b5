"""Which flags matter, from the trials of a study."""

import warnings

import optuna
from optuna.trial import TrialState


def parameter_importance(study: optuna.Study) -> dict[str, float]:
    """Return each flag's share in what separates the better trials from the rest.

    PED-ANOVA (Watanabe et al., 2023) compares distributions of the best quantile with all, so that
    the size of the penalty of infeasible trials does not matter. Shares add up to 1. Empty with
    fewer than four measured trials, or when they do not differ.
    """
    measured = [t for t in study.get_trials(deepcopy=False) if t.state is TrialState.COMPLETE]
    if len(measured) < 4 or len({t.value for t in measured}) < 2:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return dict(
                optuna.importance.get_param_importances(
                    study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
                )
            )
    except (RuntimeError, ValueError):
        # Raised where every trial has the same parameters or none are shared by all.
        return {}
