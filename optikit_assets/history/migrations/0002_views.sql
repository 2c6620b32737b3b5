-- Views that answer the usual questions.
--
-- "current" views hold, per partition, the rows of the content key that was materialized last.
-- Everything measured earlier stays in the tables.

CREATE VIEW key_last_seen AS
-- A failed outcome is materialized as KEY-failed, so that it differs from a later success.
SELECT split_part(content_key, '-', 1) AS content_key, max(materialized_at) AS materialized_at
FROM materializations
GROUP BY ALL;
COMMENT ON VIEW key_last_seen IS 'When each content key was last materialized.';

CREATE VIEW current_quantization_trials AS
WITH keys AS (
    SELECT model, recipe, content_key,
           greatest(max(started_at), max(materialized_at)) AS seen
    FROM quantization_trials LEFT JOIN key_last_seen USING (content_key)
    GROUP BY ALL
), newest AS (
    SELECT model, recipe, arg_max(content_key, coalesce(seen, '-infinity'::TIMESTAMPTZ)) AS content_key
    FROM keys GROUP BY ALL
)
SELECT * FROM quantization_trials SEMI JOIN newest USING (content_key);
COMMENT ON VIEW current_quantization_trials IS
    'Calibration trials of the latest version of each model and recipe.';

CREATE VIEW current_evaluation_scores AS
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

CREATE VIEW current_comparisons AS
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

CREATE VIEW current_quality_gates AS
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

CREATE VIEW current_sweeps AS
WITH keys AS (
    SELECT model, recipe, slo, content_key,
           greatest(max(started_at), max(materialized_at)) AS seen
    FROM sweeps LEFT JOIN key_last_seen USING (content_key)
    GROUP BY ALL
), newest AS (
    SELECT model, recipe, slo,
           arg_max(content_key, coalesce(seen, '-infinity'::TIMESTAMPTZ)) AS content_key
    FROM keys GROUP BY ALL
)
SELECT * FROM sweeps SEMI JOIN newest USING (content_key);
COMMENT ON VIEW current_sweeps IS 'Latest sweep of each model, recipe and SLO.';

CREATE VIEW current_tuning_trials AS
WITH keys AS (
    SELECT model, recipe, slo, content_key,
           greatest(max(started_at), max(materialized_at)) AS seen
    FROM tuning_trials LEFT JOIN key_last_seen USING (content_key)
    GROUP BY ALL
), newest AS (
    SELECT model, recipe, slo,
           arg_max(content_key, coalesce(seen, '-infinity'::TIMESTAMPTZ)) AS content_key
    FROM keys GROUP BY ALL
)
SELECT * FROM tuning_trials SEMI JOIN newest USING (content_key);
COMMENT ON VIEW current_tuning_trials IS 'Trials of the latest study of each model, recipe and SLO.';

CREATE VIEW current_deployments AS
WITH keys AS (
    SELECT model, slo, content_key,
           greatest(max(started_at), max(materialized_at)) AS seen
    FROM deployments LEFT JOIN key_last_seen USING (content_key)
    GROUP BY ALL
), newest AS (
    SELECT model, slo, arg_max(content_key, coalesce(seen, '-infinity'::TIMESTAMPTZ)) AS content_key
    FROM keys GROUP BY ALL
)
SELECT * FROM deployments SEMI JOIN newest USING (content_key);
COMMENT ON VIEW current_deployments IS 'Latest certification of each model and SLO.';

-- Paper, Table 3 ----------------------------------------------------------------------------------

CREATE VIEW table3 AS
WITH trial_scores AS (
    -- A task with several metrics (IFEval) counts with their mean, as in the paper.
    SELECT model, recipe, task, trial, avg(score) AS score, max(items) AS items
    FROM current_evaluation_scores
    GROUP BY ALL
), baseline AS (
    SELECT model, task, avg(score) AS score
    FROM trial_scores WHERE recipe = 'baseline'
    GROUP BY ALL
), recipes AS (
    SELECT s.model, s.task, s.recipe,
           max(s.score) AS result,
           avg(s.score) AS mean,
           -- Null for a single trial: one value has no spread.
           stddev_samp(s.score) AS std,
           count(*) AS trials,
           max(s.items) AS items,
           any_value(g.q_star_trial) AS q_star_trial,
           any_value(s.score) FILTER (WHERE s.trial = g.q_star_trial) AS q_star_result
    FROM trial_scores s LEFT JOIN current_quality_gates g USING (model, recipe)
    WHERE s.recipe <> 'baseline'
    GROUP BY ALL
)
SELECT model, task, recipe,
       b.score AS full_precision_result,
       result,
       100 * result / nullif(b.score, 0) AS recovery_percent,
       mean,
       std,
       100 * std / nullif(mean, 0) AS rsd_percent,
       trials,
       items,
       q_star_trial,
       q_star_result,
       100 * q_star_result / nullif(b.score, 0) AS q_star_recovery_percent
FROM recipes LEFT JOIN baseline b USING (model, task)
ORDER BY model, task, recipe;
COMMENT ON VIEW table3 IS 'Quality after quantization per model, task and recipe (paper, Table 3).';
COMMENT ON COLUMN table3.full_precision_result IS 'score of the uncompressed model';
COMMENT ON COLUMN table3.result IS 'score of the best trial';
COMMENT ON COLUMN table3.recovery_percent IS 'result as percentage of full_precision_result';
COMMENT ON COLUMN table3.mean IS 'mean score over the trials';
COMMENT ON COLUMN table3.std IS 'sample standard deviation over the trials; null for one trial';
COMMENT ON COLUMN table3.rsd_percent IS 'std as percentage of mean';
COMMENT ON COLUMN table3.trials IS 'number of evaluated trials';
COMMENT ON COLUMN table3.items IS 'number of scored items';
COMMENT ON COLUMN table3.q_star_trial IS 'trial that represents the recipe';
COMMENT ON COLUMN table3.q_star_result IS 'score of that trial';
COMMENT ON COLUMN table3.q_star_recovery_percent IS 'its percentage of full_precision_result';

-- Paper, Table 5 ----------------------------------------------------------------------------------

CREATE VIEW measured_configurations AS
WITH accepted AS (
    SELECT model, recipe, accepted, verdict, q_star_trial, mean_recovery FROM current_quality_gates
), measured AS (
    SELECT model, recipe, slo, 'default' AS flags_from, NULL::INTEGER AS trial, status, flags,
           certified_rate_rps AS rate_rps, gpus, input_tokens, output_tokens, accelerator, reason,
           content_key, ended_at,
           coalesce(rate_per_gpu, certified_rate_rps / nullif(gpus, 0)) AS measured_rate_per_gpu
    FROM current_sweeps
    UNION ALL BY NAME
    SELECT model, recipe, slo, 'tuned' AS flags_from, trial, status, flags,
           rate_rps, gpus, input_tokens, output_tokens, accelerator, reason,
           content_key, ended_at,
           coalesce(rate_per_gpu, rate_rps / nullif(gpus, 0)) AS measured_rate_per_gpu
    FROM current_tuning_trials
    -- One configuration per study: its best trial, or the reason of the first if none is feasible.
    QUALIFY row_number() OVER (
        PARTITION BY content_key
        ORDER BY status = 'feasible' DESC, measured_rate_per_gpu DESC NULLS LAST, trial
    ) = 1
)
SELECT m.* EXCLUDE (measured_rate_per_gpu),
       CASE WHEN m.status = 'feasible' THEN m.measured_rate_per_gpu END AS rate_per_gpu,
       m.recipe = 'baseline' OR coalesce(a.accepted, false) AS quality_accepted,
       CASE WHEN m.recipe = 'baseline' THEN 'baseline' ELSE a.verdict END AS quality_verdict,
       CASE WHEN m.recipe = 'baseline' THEN 1.0 ELSE a.mean_recovery END AS mean_recovery
FROM measured m LEFT JOIN accepted a USING (model, recipe);
COMMENT ON VIEW measured_configurations IS
    'Every recipe with default and with tuned flags, per model and SLO, and whether it may be deployed.';
COMMENT ON COLUMN measured_configurations.flags_from IS 'default: engine defaults; tuned: best trial of the study';
COMMENT ON COLUMN measured_configurations.rate_per_gpu IS 'SLO-compliant requests per second and GPU; null if the SLO is not met';
COMMENT ON COLUMN measured_configurations.quality_accepted IS 'whether the quality gate accepted the recipe';

CREATE VIEW table5 AS
WITH arms (arm, position, compressed, flags_from) AS (
    VALUES ('baseline', 1, false, 'default'),
           ('quantization_only', 2, true, 'default'),
           ('tuning_only', 3, false, 'tuned'),
           ('quantization_and_tuning', 4, true, 'tuned')
), scenarios AS (
    SELECT DISTINCT model, slo FROM measured_configurations
), candidates AS (
    SELECT c.*, a.arm
    FROM measured_configurations c
    JOIN arms a ON a.flags_from = c.flags_from AND a.compressed = (c.recipe <> 'baseline')
    WHERE c.quality_accepted
    QUALIFY row_number() OVER (
        PARTITION BY c.model, c.slo, a.arm
        ORDER BY c.rate_per_gpu DESC NULLS LAST, c.mean_recovery DESC NULLS LAST, c.recipe
    ) = 1
), rows AS (
    SELECT s.model, s.slo, a.arm, a.position, c.recipe, coalesce(c.status, 'missing') AS status,
           c.rate_rps, c.gpus, c.rate_per_gpu, c.output_tokens, c.flags, c.mean_recovery, c.reason,
           c.content_key
    FROM scenarios s CROSS JOIN arms a LEFT JOIN candidates c USING (model, slo, arm)
)
SELECT r.model, r.slo, r.arm, r.recipe, r.status, r.rate_rps, r.gpus, r.rate_per_gpu,
       r.rate_per_gpu * r.output_tokens AS output_tokens_per_s_per_gpu,
       r.rate_per_gpu / nullif(b.rate_per_gpu, 0) AS gain,
       r.mean_recovery, r.flags, r.reason, r.content_key
FROM rows r LEFT JOIN rows b ON b.model = r.model AND b.slo = r.slo AND b.arm = 'baseline'
ORDER BY r.model, r.slo, r.position;
COMMENT ON VIEW table5 IS
    'The four arms per model and SLO: SLO-compliant rate per GPU and gain over the baseline (paper, Table 5).';
COMMENT ON COLUMN table5.arm IS 'baseline, quantization_only, tuning_only or quantization_and_tuning';
COMMENT ON COLUMN table5.recipe IS 'recipe of the arm: the fastest one the quality gate accepted';
COMMENT ON COLUMN table5.status IS 'feasible, infeasible, unresolved, failed, or missing if nothing was measured';
COMMENT ON COLUMN table5.rate_per_gpu IS 'SLO-compliant requests per second and GPU; null if the SLO is not met';
COMMENT ON COLUMN table5.gain IS 'rate_per_gpu / that of the baseline; null if the baseline misses the SLO';
COMMENT ON COLUMN table5.mean_recovery IS 'mean score relative to the uncompressed model';

CREATE VIEW table5_wide AS
SELECT model, slo,
       any_value(rate_per_gpu) FILTER (WHERE arm = 'baseline') AS baseline,
       any_value(rate_per_gpu) FILTER (WHERE arm = 'quantization_only') AS quantization_only,
       any_value(gain) FILTER (WHERE arm = 'quantization_only') AS quantization_only_gain,
       any_value(rate_per_gpu) FILTER (WHERE arm = 'tuning_only') AS tuning_only,
       any_value(gain) FILTER (WHERE arm = 'tuning_only') AS tuning_only_gain,
       any_value(rate_per_gpu) FILTER (WHERE arm = 'quantization_and_tuning') AS quantization_and_tuning,
       any_value(gain) FILTER (WHERE arm = 'quantization_and_tuning') AS quantization_and_tuning_gain
FROM table5
GROUP BY model, slo
ORDER BY model, slo;
COMMENT ON VIEW table5_wide IS 'table5 in the layout of the paper: one row per model and SLO.';

-- Configurations ----------------------------------------------------------------------------------

CREATE VIEW best_configurations AS
SELECT c.model, c.slo, c.recipe, c.flags_from, c.trial, c.flags, c.gpus, c.rate_rps, c.rate_per_gpu,
       c.mean_recovery, c.quality_verdict, c.accelerator, c.content_key,
       d.status AS deployment_status,
       d.chosen_recipe AS deployed_recipe,
       d.flags AS deployed_flags,
       d.certified_rate_rps,
       d.gain AS certified_gain,
       d.bundle_path,
       d.reason AS deployment_reason
FROM measured_configurations c
LEFT JOIN current_deployments d ON d.model = c.model AND d.slo = c.slo
WHERE c.quality_accepted AND c.rate_per_gpu IS NOT NULL
QUALIFY row_number() OVER (
    PARTITION BY c.model, c.slo
    -- Equal rates: the configuration with less to explain.
    ORDER BY c.rate_per_gpu DESC, c.recipe <> 'baseline', c.flags_from, c.recipe
) = 1
ORDER BY c.model, c.slo;
COMMENT ON VIEW best_configurations IS
    'Per model and SLO the measured configuration with the highest rate per GPU, and what is deployed.';
COMMENT ON COLUMN best_configurations.deployed_recipe IS 'recipe of the certified deployment; null before certification';
COMMENT ON COLUMN best_configurations.certified_rate_rps IS 'rate of the deployment, confirmed by a fresh measurement';

CREATE VIEW tuning_history AS
WITH trials AS (
    SELECT * EXCLUDE (rate_per_gpu),
           coalesce(rate_per_gpu, rate_rps / nullif(gpus, 0)) AS rate_per_gpu
    FROM current_tuning_trials
)
SELECT model, recipe, slo, study, trial, status, flags, rate_rps, gpus, rate_per_gpu, fitness,
       max(rate_per_gpu) FILTER (WHERE status = 'feasible') OVER study_so_far AS best_rate_per_gpu_so_far,
       CASE WHEN status = 'feasible' THEN rate_per_gpu END
           / nullif(first_value(CASE WHEN status = 'feasible' THEN rate_per_gpu END) OVER study_so_far, 0)
           AS gain_over_default,
       is_default, is_best, reason, coalesce(seconds, epoch(ended_at - started_at)) AS seconds,
       started_at, ended_at, accelerator, seed, run_id, content_key
FROM trials
WINDOW study_so_far AS (
    PARTITION BY content_key ORDER BY trial ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
)
ORDER BY model, recipe, slo, trial;
COMMENT ON VIEW tuning_history IS 'Trials of the latest studies in order, with the best rate so far.';
COMMENT ON COLUMN tuning_history.best_rate_per_gpu_so_far IS 'highest feasible rate per GPU up to this trial';
COMMENT ON COLUMN tuning_history.gain_over_default IS 'rate_per_gpu / that of trial 0, the engine''s default';

CREATE VIEW cost_per_million_tokens AS
WITH priced AS (
    SELECT c.*, p.accelerator AS priced_as, p.usd_per_hour
    FROM measured_configurations c
    LEFT JOIN prices p ON contains(lower(c.accelerator), lower(p.accelerator))
    WHERE c.rate_per_gpu > 0
    -- 'L40S' is also an 'L4' by name: the longest match wins.
    QUALIFY row_number() OVER (
        PARTITION BY c.content_key, c.flags_from
        ORDER BY length(p.accelerator) DESC NULLS LAST, p.is_default
    ) = 1
)
SELECT model, slo, recipe, flags_from, quality_accepted, accelerator, gpus, rate_per_gpu,
       rate_per_gpu * output_tokens AS output_tokens_per_s_per_gpu,
       priced_as, usd_per_hour,
       usd_per_hour / 3600 / rate_per_gpu * 1e6 / nullif(output_tokens, 0)
           AS usd_per_million_output_tokens,
       usd_per_hour / 3600 / rate_per_gpu * 1e6 / nullif(input_tokens + output_tokens, 0)
           AS usd_per_million_tokens,
       usd_per_hour / 3600 / rate_per_gpu * 1e3 AS usd_per_thousand_requests
FROM priced
ORDER BY model, slo, usd_per_million_tokens;
COMMENT ON VIEW cost_per_million_tokens IS
    'What tokens cost at the SLO-compliant rate, with the accelerator prices in the table prices.';
COMMENT ON COLUMN cost_per_million_tokens.priced_as IS 'row of prices that applies; null if none does';
COMMENT ON COLUMN cost_per_million_tokens.usd_per_million_tokens IS 'US dollars per million input and output tokens';

CREATE VIEW pareto_rate_recovery AS
WITH points AS (
    SELECT model, slo, recipe, flags_from, rate_per_gpu, mean_recovery, quality_accepted, quality_verdict
    FROM measured_configurations
    WHERE rate_per_gpu IS NOT NULL AND mean_recovery IS NOT NULL
)
SELECT p.*,
       NOT EXISTS (
           SELECT 1 FROM points q
           WHERE q.model = p.model AND q.slo = p.slo
             AND q.rate_per_gpu >= p.rate_per_gpu AND q.mean_recovery >= p.mean_recovery
             AND (q.rate_per_gpu > p.rate_per_gpu OR q.mean_recovery > p.mean_recovery)
       ) AS on_front
FROM points p
ORDER BY model, slo, rate_per_gpu DESC;
COMMENT ON VIEW pareto_rate_recovery IS
    'Rate per GPU against mean recovery; on_front: no other configuration is at least as good in both.';
COMMENT ON COLUMN pareto_rate_recovery.on_front IS 'whether the configuration is Pareto-optimal';

CREATE VIEW data_dictionary AS
WITH everywhere (column_name, description) AS (
    VALUES ('model', 'model version, NAME@VERSION'),
           ('recipe', 'compression recipe'),
           ('slo', 'service level objective'),
           ('content_key', 'digest of everything the result depends on; also the data version in Dagster'),
           ('seed', 'seed of everything random in it'),
           ('versions', 'engine and library versions'),
           ('accelerator', 'accelerator it ran on'),
           ('run_id', 'Dagster run'),
           ('started_at', 'start of the work'),
           ('ended_at', 'end of the work')
), tables AS (
    SELECT table_name, column_name, comment FROM duckdb_columns()
    WHERE NOT internal AND schema_name = 'main' AND comment IS NOT NULL
), by_name AS (
    SELECT column_name, arg_min(comment, table_name) AS comment FROM tables GROUP BY column_name
)
SELECT c.table_name, c.column_name, c.data_type,
       coalesce(c.comment, origin.comment, e.description, by_name.comment) AS description,
       coalesce(t.comment, v.comment) AS table_description
FROM duckdb_columns() c
LEFT JOIN duckdb_tables() t
    ON t.table_name = c.table_name AND t.database_name = c.database_name
LEFT JOIN duckdb_views() v
    ON v.view_name = c.table_name AND v.database_name = c.database_name
-- A view's column without words of its own means what it means in the table it comes from.
LEFT JOIN tables origin
    ON origin.table_name = replace(c.table_name, 'current_', '')
   AND origin.column_name = c.column_name
LEFT JOIN everywhere e ON e.column_name = c.column_name
LEFT JOIN by_name ON by_name.column_name = c.column_name
WHERE NOT c.internal AND c.schema_name = 'main'
ORDER BY c.table_name, c.column_index;
COMMENT ON VIEW data_dictionary IS 'Every table, view and column with its meaning.';
