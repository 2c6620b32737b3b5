-- Table 5 says of every arm what the bundle says: one that was asked for and left nothing to measure
-- is skipped, and no rate is null, not zero.

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
           CASE coalesce(tuned, (confirmations->'$[#-1]'->>'tuned')::BOOLEAN)
               WHEN true THEN 'tuned' WHEN false THEN 'default'
           END AS flags_from
    FROM current_deployments
    WHERE chosen_recipe IS NOT NULL AND certified_rate_rps IS NOT NULL
), certificates AS (
    SELECT model, slo, started_at,
           unnest(from_json(arms, '[{"name": "VARCHAR", "recipe": "VARCHAR", "evidence": "VARCHAR",
               "rate_rps": "DOUBLE", "rate_per_gpu": "DOUBLE", "claimed_rps": "DOUBLE",
               "refuted_rps": "DOUBLE", "gain": "DOUBLE", "gain_low": "DOUBLE",
               "gain_high": "DOUBLE"}]')) AS found
    FROM current_deployments
), candidates AS (
    SELECT c.* EXCLUDE (rate_rps, rate_per_gpu),
           a.arm,
           d.recipe IS NOT NULL AS deployed,
           e.found IS NOT NULL AS judged,
           e.found.evidence AS evidence,
           e.found.refuted_rps AS refuted_rps,
           e.found.gain AS certified_gain,
           e.found.gain_low AS gain_low,
           e.found.gain_high AS gain_high,
           -- A search that met the SLO at no rate kept the rate 0.
           CASE WHEN c.status = 'feasible' THEN c.rate_rps END AS claimed_rps,
           CASE WHEN e.found.evidence IN ('confirmed', 'refuted') THEN e.found.rate_rps
                WHEN c.status = 'feasible' THEN coalesce(d.certified_rate_rps, c.rate_rps)
           END AS rate_rps,
           CASE WHEN e.found.evidence IN ('confirmed', 'refuted') THEN e.found.rate_per_gpu
                ELSE coalesce(d.certified_rate_rps / nullif(d.gpus, 0), c.rate_per_gpu)
           END AS rate_per_gpu
    FROM measured_configurations c
    JOIN arms a ON a.flags_from = c.flags_from AND a.compressed = (c.recipe <> 'baseline')
    LEFT JOIN deployed d
        ON d.model = c.model AND d.slo = c.slo
       AND d.recipe = c.recipe AND d.flags_from = c.flags_from
       -- What was measured again since then is another configuration.
       AND coalesce(c.ended_at <= d.started_at, true)
    LEFT JOIN certificates e
        ON e.model = c.model AND e.slo = c.slo
       AND e.found.name = a.arm AND e.found.recipe = c.recipe
       AND coalesce(c.ended_at <= e.started_at, true)
    WHERE c.quality_accepted
    QUALIFY row_number() OVER (
        PARTITION BY c.model, c.slo, a.arm
        ORDER BY d.recipe IS NOT NULL DESC, e.found IS NOT NULL DESC,
                 c.rate_per_gpu DESC NULLS LAST, c.mean_recovery DESC NULLS LAST, c.recipe
    ) = 1
), rows AS (
    SELECT s.model, s.slo, a.arm, a.position, coalesce(c.recipe, e.found.recipe) AS recipe,
           coalesce(c.status, 'missing') AS status,
           coalesce(c.deployed, false) AS deployed,
           CASE WHEN c.judged THEN c.evidence
                WHEN c.deployed THEN 'confirmed'
                -- What left nothing to be measured: a study that failed, recipes that were refused.
                WHEN c.recipe IS NULL THEN coalesce(e.found.evidence, 'not_asked')
                WHEN c.status IN ('failed', 'skipped') THEN 'skipped'
                ELSE 'measured' END AS evidence,
           coalesce(c.judged, false) AS judged, c.claimed_rps, c.refuted_rps,
           c.certified_gain, c.gain_low, c.gain_high,
           c.rate_rps, c.gpus, c.rate_per_gpu, c.output_tokens, c.flags, c.mean_recovery, c.reason,
           c.content_key
    FROM scenarios s CROSS JOIN arms a LEFT JOIN candidates c USING (model, slo, arm)
    LEFT JOIN certificates e ON e.model = s.model AND e.slo = s.slo AND e.found.name = a.arm
)
SELECT r.model, r.slo, r.arm, r.recipe, r.status, r.evidence, r.deployed, r.rate_rps, r.gpus,
       r.rate_per_gpu, r.rate_per_gpu * r.output_tokens AS output_tokens_per_s_per_gpu,
       CASE WHEN r.judged THEN r.certified_gain
            ELSE r.rate_per_gpu / nullif(b.rate_per_gpu, 0) END AS gain,
       r.gain_low, r.gain_high, r.claimed_rps, r.refuted_rps,
       r.mean_recovery, r.flags, r.reason, r.content_key
FROM rows r LEFT JOIN rows b ON b.model = r.model AND b.slo = r.slo AND b.arm = 'baseline'
ORDER BY r.model, r.slo, r.position;
COMMENT ON VIEW table5 IS
    'The four arms per model and SLO: SLO-compliant rate per GPU and gain over the baseline (paper, Table 5).';
COMMENT ON COLUMN table5.rate_rps IS 'requests per second: certified with fresh arrivals if confirmed, null if refuted or if the SLO is met at no rate, else as the search measured it';
COMMENT ON COLUMN table5.claimed_rps IS 'rate that the search found; null if it found none';
COMMENT ON COLUMN table5.evidence IS 'confirmed (on fresh servers, side by side with the baseline), measured (by its search alone), refuted (no rate held on fresh servers), skipped (asked for, but there is no measurement) or not_asked';
COMMENT ON COLUMN table5.arm IS 'baseline, quantization_only, tuning_only or quantization_and_tuning';
COMMENT ON COLUMN table5.recipe IS 'recipe of the arm: the deployed one, else one that was certified beside it, else the fastest that the quality gate accepted, else the one that the decision knew';
COMMENT ON COLUMN table5.status IS 'of the search: feasible, infeasible, unresolved, failed, or missing if nothing was measured';
COMMENT ON COLUMN table5.deployed IS 'whether this arm is the certified deployment';
COMMENT ON COLUMN table5.rate_per_gpu IS 'rate_rps / gpus; null if the SLO is not met';
COMMENT ON COLUMN table5.gain IS 'multiple of the baseline: of both limits side by side if confirmed, else of the rates that two searches measured; null if the baseline misses the SLO';
COMMENT ON COLUMN table5.gain_low IS 'lower end of the interval of the gain; null if it is only measured';
COMMENT ON COLUMN table5.gain_high IS 'upper end of the interval of the gain; null if it is only measured';
COMMENT ON COLUMN table5.refuted_rps IS 'the rate that the search found, where fresh servers did not bear it out';
COMMENT ON COLUMN table5.mean_recovery IS 'mean score relative to the uncompressed model';
