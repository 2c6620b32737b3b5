-- Table 5 tells the number that is shipped: the deployed arm shows the rate that was certified, as
-- in the report of the deployment, the other arms the rate of their search.

CREATE OR REPLACE VIEW table5 AS
WITH arms (arm, position, compressed, flags_from) AS (
    VALUES ('baseline', 1, false, 'default'),
           ('quantization_only', 2, true, 'default'),
           ('tuning_only', 3, false, 'tuned'),
           ('quantization_and_tuning', 4, true, 'tuned')
), scenarios AS (
    SELECT DISTINCT model, slo FROM measured_configurations
), deployed AS (
    SELECT model, slo, chosen_recipe AS recipe, certified_rate_rps, gpus, started_at,
           -- The attempt that succeeds ends the certification.
           CASE (confirmations->'$[#-1]'->>'tuned')::BOOLEAN
               WHEN true THEN 'tuned' WHEN false THEN 'default'
           END AS flags_from
    FROM current_deployments
    WHERE chosen_recipe IS NOT NULL AND certified_rate_rps IS NOT NULL
), candidates AS (
    SELECT c.* EXCLUDE (rate_rps, rate_per_gpu),
           a.arm,
           d.recipe IS NOT NULL AS deployed,
           coalesce(d.certified_rate_rps, c.rate_rps) AS rate_rps,
           coalesce(d.certified_rate_rps / nullif(d.gpus, 0), c.rate_per_gpu) AS rate_per_gpu
    FROM measured_configurations c
    JOIN arms a ON a.flags_from = c.flags_from AND a.compressed = (c.recipe <> 'baseline')
    LEFT JOIN deployed d
        ON d.model = c.model AND d.slo = c.slo
       AND d.recipe = c.recipe AND d.flags_from = c.flags_from
       -- What was measured again since then is another configuration.
       AND coalesce(c.ended_at <= d.started_at, true)
    WHERE c.quality_accepted
    QUALIFY row_number() OVER (
        PARTITION BY c.model, c.slo, a.arm
        ORDER BY d.recipe IS NOT NULL DESC, c.rate_per_gpu DESC NULLS LAST,
                 c.mean_recovery DESC NULLS LAST, c.recipe
    ) = 1
), rows AS (
    SELECT s.model, s.slo, a.arm, a.position, c.recipe, coalesce(c.status, 'missing') AS status,
           coalesce(c.deployed, false) AS deployed,
           c.rate_rps, c.gpus, c.rate_per_gpu, c.output_tokens, c.flags, c.mean_recovery, c.reason,
           c.content_key
    FROM scenarios s CROSS JOIN arms a LEFT JOIN candidates c USING (model, slo, arm)
)
SELECT r.model, r.slo, r.arm, r.recipe, r.status, r.deployed, r.rate_rps, r.gpus, r.rate_per_gpu,
       r.rate_per_gpu * r.output_tokens AS output_tokens_per_s_per_gpu,
       r.rate_per_gpu / nullif(b.rate_per_gpu, 0) AS gain,
       r.mean_recovery, r.flags, r.reason, r.content_key
FROM rows r LEFT JOIN rows b ON b.model = r.model AND b.slo = r.slo AND b.arm = 'baseline'
ORDER BY r.model, r.slo, r.position;
COMMENT ON VIEW table5 IS
    'The four arms per model and SLO: SLO-compliant rate per GPU and gain over the baseline (paper, Table 5).';
COMMENT ON COLUMN table5.arm IS 'baseline, quantization_only, tuning_only or quantization_and_tuning';
COMMENT ON COLUMN table5.recipe IS 'recipe of the arm: the deployed one, else the fastest that the quality gate accepted';
COMMENT ON COLUMN table5.status IS 'feasible, infeasible, unresolved, failed, or missing if nothing was measured';
COMMENT ON COLUMN table5.deployed IS 'whether this arm is the certified deployment';
COMMENT ON COLUMN table5.rate_rps IS 'requests per second: certified with fresh arrivals if deployed, else as the search measured it';
COMMENT ON COLUMN table5.rate_per_gpu IS 'rate_rps / gpus; null if the SLO is not met';
COMMENT ON COLUMN table5.gain IS 'rate_per_gpu / that of the baseline; null if the baseline misses the SLO';
COMMENT ON COLUMN table5.mean_recovery IS 'mean score relative to the uncompressed model';

CREATE OR REPLACE VIEW table5_wide AS
SELECT model, slo,
       any_value(rate_per_gpu) FILTER (WHERE arm = 'baseline') AS baseline,
       any_value(rate_per_gpu) FILTER (WHERE arm = 'quantization_only') AS quantization_only,
       any_value(gain) FILTER (WHERE arm = 'quantization_only') AS quantization_only_gain,
       any_value(rate_per_gpu) FILTER (WHERE arm = 'tuning_only') AS tuning_only,
       any_value(gain) FILTER (WHERE arm = 'tuning_only') AS tuning_only_gain,
       any_value(rate_per_gpu) FILTER (WHERE arm = 'quantization_and_tuning') AS quantization_and_tuning,
       any_value(gain) FILTER (WHERE arm = 'quantization_and_tuning') AS quantization_and_tuning_gain,
       any_value(arm) FILTER (WHERE deployed) AS deployed
FROM table5
GROUP BY model, slo
ORDER BY model, slo;
COMMENT ON VIEW table5_wide IS
    'table5 in the layout of the paper, one row per model and SLO: requests per second and GPU.';
COMMENT ON COLUMN table5_wide.deployed IS 'arm that is deployed: its rate was certified with fresh arrivals, the others are as their search measured them';
