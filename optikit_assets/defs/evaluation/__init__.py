"""Scores, their comparison and the quality gate: the asset `eval_scores`."""
