"""Evaluation suites: lm-eval adapter, per-item outcomes, paired statistics, choice of q*.

``scores``      what one evaluated candidate is, and its files
``tasks``       the suite's task files, checked before a model is loaded
``harness``     lm-eval runs, item by item (serve environment)
``endpoint``    an OpenAI-compatible endpoint as the model behind lm-eval (serve environment)
``judges``      verdicts on free text
``proportions`` tests and intervals for right and wrong answers to the same items
``paired``      statistics of one task: candidate against baseline on the same items
``variance``    spread between calibration trials, apart from the evaluation's noise
``recovery``    mean recovery over the tasks, with its confidence bound
``comparison``  all candidates of a recipe against the baseline: table, gate, q*

Nothing is imported here: one half needs lm-eval, which only the serve environment has.
"""
