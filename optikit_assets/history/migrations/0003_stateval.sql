-- StatEval: why q*, how an evaluation was set up, the parts of the spread between trials, and
-- repeated evaluations of one checkpoint (paper, Table 4).

ALTER TABLE quality_gates ADD COLUMN q_star_reason VARCHAR;
COMMENT ON COLUMN quality_gates.q_star_reason IS 'why this trial represents the recipe';

ALTER TABLE evaluation_scores ADD COLUMN settings JSON;
COMMENT ON COLUMN evaluation_scores.settings IS 'engine arguments and determinism settings of the evaluation';

ALTER TABLE comparisons ADD COLUMN difference_low DOUBLE;
ALTER TABLE comparisons ADD COLUMN difference_high DOUBLE;
ALTER TABLE comparisons ADD COLUMN recovery_method VARCHAR;
ALTER TABLE comparisons ADD COLUMN noninferior_holm_p DOUBLE;
ALTER TABLE comparisons ADD COLUMN inferior_p DOUBLE;
ALTER TABLE comparisons ADD COLUMN inferior_holm_p DOUBLE;
ALTER TABLE comparisons ADD COLUMN weight DOUBLE;
ALTER TABLE comparisons ADD COLUMN reason VARCHAR;
COMMENT ON COLUMN comparisons.difference_low IS 'lower bound of difference';
COMMENT ON COLUMN comparisons.difference_high IS 'upper bound of difference';
COMMENT ON COLUMN comparisons.recovery_method IS 'how the interval of recovery was made: bca, percentile, score, augmented';
COMMENT ON COLUMN comparisons.noninferior_holm_p IS 'noninferior_p after correction over the trials and Holm''s over the tasks';
COMMENT ON COLUMN comparisons.inferior_p IS 'test that recovery is above 1 - margin; small means inferior';
COMMENT ON COLUMN comparisons.inferior_holm_p IS 'inferior_p after Holm''s correction over the tasks';
COMMENT ON COLUMN comparisons.weight IS 'weight of the task in the mean recovery';
COMMENT ON COLUMN comparisons.reason IS 'the verdict in words';

CREATE TABLE trial_spreads (
    model           VARCHAR NOT NULL,
    recipe          VARCHAR,
    slo             VARCHAR,
    content_key     VARCHAR NOT NULL,
    seed            UBIGINT,
    versions        JSON,
    accelerator     VARCHAR,
    run_id          VARCHAR,
    started_at      TIMESTAMPTZ,
    ended_at        TIMESTAMPTZ,
    task            VARCHAR NOT NULL,
    trials          INTEGER,
    mean            DOUBLE,
    std             DOUBLE,
    calibration_std DOUBLE,
    noise_std       DOUBLE,
    trials_differ_p DOUBLE,
    PRIMARY KEY (content_key, task)
);
COMMENT ON TABLE trial_spreads IS 'Spread of a task''s score over calibration trials, split into calibration and evaluation noise.';
COMMENT ON COLUMN trial_spreads.task IS 'task of the evaluation suite';
COMMENT ON COLUMN trial_spreads.trials IS 'number of evaluated trials';
COMMENT ON COLUMN trial_spreads.mean IS 'mean score over the trials';
COMMENT ON COLUMN trial_spreads.std IS 'sample standard deviation of the scores; null for one trial';
COMMENT ON COLUMN trial_spreads.calibration_std IS 'standard deviation between trials without the noise of the evaluation';
COMMENT ON COLUMN trial_spreads.noise_std IS 'standard deviation that the evaluation alone gives a trial''s score';
COMMENT ON COLUMN trial_spreads.trials_differ_p IS 'F test that all trials are equally good';

CREATE TABLE repeatability_runs (
    model             VARCHAR NOT NULL,
    recipe            VARCHAR,
    slo               VARCHAR,
    content_key       VARCHAR NOT NULL,
    seed              UBIGINT,
    versions          JSON,
    accelerator       VARCHAR,
    run_id            VARCHAR,
    started_at        TIMESTAMPTZ,
    ended_at          TIMESTAMPTZ,
    repetition        INTEGER NOT NULL,
    suite             VARCHAR,
    task              VARCHAR NOT NULL,
    score             DOUBLE,
    items             BIGINT,
    changed_responses BIGINT,
    deterministic     BOOLEAN NOT NULL,
    settings          JSON,
    artifact_key      VARCHAR,
    PRIMARY KEY (content_key, repetition, task)
);
COMMENT ON TABLE repeatability_runs IS 'One of several evaluations of the same checkpoint with the same settings.';
COMMENT ON COLUMN repeatability_runs.repetition IS 'number of the evaluation, from 0';
COMMENT ON COLUMN repeatability_runs.suite IS 'evaluation suite';
COMMENT ON COLUMN repeatability_runs.task IS 'task of the evaluation suite';
COMMENT ON COLUMN repeatability_runs.score IS 'mean over the items, 1 is best';
COMMENT ON COLUMN repeatability_runs.items IS 'number of scored items';
COMMENT ON COLUMN repeatability_runs.changed_responses IS 'items answered in other words than in repetition 0';
COMMENT ON COLUMN repeatability_runs.deterministic IS 'whether the engine ran in its deterministic mode';
COMMENT ON COLUMN repeatability_runs.settings IS 'engine arguments and determinism settings';
COMMENT ON COLUMN repeatability_runs.artifact_key IS 'artifact with the scores and all samples';

-- A view keeps the columns that its table had when it was made.

CREATE OR REPLACE VIEW current_evaluation_scores AS
WITH keys AS (
    SELECT model, recipe, content_key,
           greatest(max(started_at), max(materialized_at)) AS seen
    FROM evaluation_scores LEFT JOIN key_last_seen USING (content_key)
    GROUP BY ALL
), newest AS (
    SELECT model, recipe, arg_max(content_key, coalesce(seen, '-infinity'::TIMESTAMPTZ)) AS content_key
    FROM keys GROUP BY ALL
)
SELECT * FROM evaluation_scores SEMI JOIN newest USING (content_key);
COMMENT ON VIEW current_evaluation_scores IS
    'Scores of the latest evaluation of each model and recipe.';

CREATE OR REPLACE VIEW current_comparisons AS
WITH keys AS (
    SELECT model, recipe, content_key,
           greatest(max(started_at), max(materialized_at)) AS seen
    FROM comparisons LEFT JOIN key_last_seen USING (content_key)
    GROUP BY ALL
), newest AS (
    SELECT model, recipe, arg_max(content_key, coalesce(seen, '-infinity'::TIMESTAMPTZ)) AS content_key
    FROM keys GROUP BY ALL
)
SELECT * FROM comparisons SEMI JOIN newest USING (content_key);
COMMENT ON VIEW current_comparisons IS
    'Paired comparisons of the latest evaluation of each model and recipe.';

CREATE OR REPLACE VIEW current_quality_gates AS
WITH keys AS (
    SELECT model, recipe, content_key,
           greatest(max(started_at), max(materialized_at)) AS seen
    FROM quality_gates LEFT JOIN key_last_seen USING (content_key)
    GROUP BY ALL
), newest AS (
    SELECT model, recipe, arg_max(content_key, coalesce(seen, '-infinity'::TIMESTAMPTZ)) AS content_key
    FROM keys GROUP BY ALL
)
SELECT * FROM quality_gates SEMI JOIN newest USING (content_key);
COMMENT ON VIEW current_quality_gates IS 'Latest quality verdict of each model and recipe.';

CREATE VIEW current_trial_spreads AS
WITH keys AS (
    SELECT model, recipe, content_key,
           greatest(max(started_at), max(materialized_at)) AS seen
    FROM trial_spreads LEFT JOIN key_last_seen USING (content_key)
    GROUP BY ALL
), newest AS (
    SELECT model, recipe, arg_max(content_key, coalesce(seen, '-infinity'::TIMESTAMPTZ)) AS content_key
    FROM keys GROUP BY ALL
)
SELECT * FROM trial_spreads SEMI JOIN newest USING (content_key);
COMMENT ON VIEW current_trial_spreads IS
    'Spread over calibration trials in the latest evaluation of each model and recipe.';

CREATE VIEW table4 AS
WITH sessions AS (
    SELECT model, recipe, suite, deterministic, content_key, max(ended_at) AS seen
    FROM repeatability_runs
    GROUP BY ALL
), newest AS (
    SELECT model, recipe, suite, deterministic,
           arg_max(content_key, coalesce(seen, '-infinity'::TIMESTAMPTZ)) AS content_key
    FROM sessions GROUP BY ALL
)
SELECT model, recipe, suite, deterministic, task,
       min(score) AS min,
       max(score) AS max,
       avg(score) AS mean,
       stddev_samp(score) AS std,
       100 * stddev_samp(score) / nullif(avg(score), 0) AS rsd_percent,
       count(*) AS runs,
       max(items) AS items,
       max(changed_responses) AS most_changed_responses
FROM repeatability_runs SEMI JOIN newest USING (content_key)
GROUP BY ALL
ORDER BY model, recipe, suite, deterministic, task;
COMMENT ON VIEW table4 IS
    'Repeatability: the same checkpoint evaluated several times, latest series (paper, Table 4).';
COMMENT ON COLUMN table4.min IS 'lowest score';
COMMENT ON COLUMN table4.max IS 'highest score';
COMMENT ON COLUMN table4.mean IS 'mean score';
COMMENT ON COLUMN table4.std IS 'sample standard deviation; null for one run';
COMMENT ON COLUMN table4.rsd_percent IS 'std as percentage of mean';
COMMENT ON COLUMN table4.runs IS 'number of evaluations';
COMMENT ON COLUMN table4.most_changed_responses IS 'most items that a run answered in other words than the first';
