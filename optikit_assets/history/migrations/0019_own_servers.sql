-- A trial that was explored on a server started with other flags is no measured configuration.

CREATE OR REPLACE VIEW measured_configurations AS
WITH accepted AS (
    SELECT model, recipe, accepted, verdict, q_star_trial, mean_recovery FROM current_quality_gates
), measured AS (
    SELECT model, recipe, slo, 'default' AS flags_from, NULL::INTEGER AS trial, status, flags,
           certified_rate_rps AS rate_rps, gpus, input_tokens, output_tokens, accelerator, reason,
           content_key, ended_at, pool,
           coalesce(rate_per_gpu, certified_rate_rps / nullif(gpus, 0)) AS measured_rate_per_gpu
    FROM current_sweeps
    UNION ALL BY NAME
    SELECT model, recipe, slo, 'tuned' AS flags_from, trial, status, flags,
           rate_rps, gpus, input_tokens, output_tokens, accelerator, reason,
           content_key, ended_at, pool,
           coalesce(rate_per_gpu, rate_rps / nullif(gpus, 0)) AS measured_rate_per_gpu
    FROM current_tuning_trials
    -- What a server showed that was started with other flags is no measurement of these.
    WHERE retuned IS NOT TRUE
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
    'Every recipe with default and with tuned flags, per model, SLO and pool, and whether it may be deployed.';
COMMENT ON COLUMN measured_configurations.flags_from IS 'default: engine defaults; tuned: best trial of the study';
COMMENT ON COLUMN measured_configurations.rate_per_gpu IS 'SLO-compliant requests per second and GPU; null if the SLO is not met';
COMMENT ON COLUMN measured_configurations.quality_accepted IS 'whether the quality gate accepted the recipe';

CREATE OR REPLACE VIEW tuning_history AS
WITH trials AS (
    SELECT * EXCLUDE (rate_per_gpu),
           coalesce(rate_per_gpu, rate_rps / nullif(gpus, 0)) AS rate_per_gpu
    FROM current_tuning_trials
)
SELECT model, recipe, slo, study, trial, status, flags, rate_rps, gpus, rate_per_gpu, fitness,
       max(rate_per_gpu) FILTER (WHERE status = 'feasible' AND retuned IS NOT TRUE) OVER study_so_far
           AS best_rate_per_gpu_so_far,
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
COMMENT ON COLUMN tuning_history.best_rate_per_gpu_so_far IS 'highest feasible rate per GPU up to this trial, of those that had a server of their own';
COMMENT ON COLUMN tuning_history.gain_over_default IS 'rate_per_gpu / that of trial 0, the engine''s default';
