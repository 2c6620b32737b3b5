-- The best trial of each study is found among three columns, before any of the others is read.

CREATE OR REPLACE VIEW measured_configurations AS
WITH accepted AS (
    SELECT model, recipe, accepted, verdict, q_star_trial, mean_recovery FROM current_quality_gates
), studies AS (
    SELECT model, recipe, slo, pool, content_key,
           greatest(max(started_at), max(materialized_at)) AS seen
    FROM tuning_trials LEFT JOIN key_last_seen USING (content_key)
    GROUP BY ALL
), newest AS (
    SELECT arg_max(content_key, coalesce(seen, '-infinity'::TIMESTAMPTZ)) AS content_key
    FROM studies GROUP BY model, recipe, slo, pool
), best AS (
    -- One configuration per study: its best trial, or the first if none is feasible.
    SELECT content_key,
           arg_min(trial, (
               status <> 'feasible',
               -coalesce(rate_per_gpu, rate_rps / nullif(gpus, 0), '-infinity'::DOUBLE),
               trial
           )) AS trial
    FROM tuning_trials
    -- What a server showed that was started with other flags is no measurement of these.
    WHERE retuned IS NOT TRUE
    GROUP BY content_key
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
    FROM tuning_trials SEMI JOIN (FROM best SEMI JOIN newest USING (content_key)) USING (content_key, trial)
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
