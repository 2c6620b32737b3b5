-- What ended without a verdict, or was broken off, is no rate of zero that a prediction missed.

CREATE OR REPLACE VIEW predicted_against_measured AS
SELECT m.model, m.recipe, m.slo, m.pool, p.tensor_parallel_size, p.pipeline_parallel_size,
       m.flags_from, p.rate_per_gpu AS predicted, p.low_per_gpu AS predicted_low,
       p.high_per_gpu AS predicted_high, coalesce(m.rate_per_gpu, 0.0) AS measured,
       p.rate_per_gpu / nullif(m.rate_per_gpu, 0) - 1.0 AS error,
       coalesce(m.rate_per_gpu, 0.0) BETWEEN p.low_per_gpu AND p.high_per_gpu AS within,
       p.ended_at AS predicted_at, m.ended_at AS measured_at
FROM measured_configurations m
JOIN predictions p
    ON p.model = m.model AND p.recipe = m.recipe AND p.slo = m.slo
    AND p.pool IS NOT DISTINCT FROM m.pool
    AND p.pipeline_parallel_size = coalesce(
        CAST(json_extract_string(m.flags, '$.pipeline_parallel_size') AS INTEGER),
        CAST(json_extract_string(m.flags, '$.pp_size') AS INTEGER), 1)
    -- Engines name the flag differently; by its cards a server says the same for all.
    AND p.tensor_parallel_size = m.gpus // (p.pipeline_parallel_size * coalesce(
        CAST(json_extract_string(m.flags, '$.data_parallel_size') AS INTEGER),
        CAST(json_extract_string(m.flags, '$.dp_size') AS INTEGER), 1))
    -- What was predicted afterwards may have learnt from the measurement.
    AND p.ended_at <= m.ended_at
WHERE m.status NOT IN ('unresolved', 'dropped', 'skipped', 'failed')
QUALIFY row_number() OVER (
    PARTITION BY m.content_key, m.flags_from ORDER BY p.ended_at DESC
) = 1;
COMMENT ON VIEW predicted_against_measured IS
    'Each measured configuration beside the last prediction that was made of it before.';
COMMENT ON COLUMN predicted_against_measured.flags_from IS 'default: engine defaults, which the prediction is of; tuned: best trial of the study';
COMMENT ON COLUMN predicted_against_measured.predicted IS 'predicted requests per second and GPU';
COMMENT ON COLUMN predicted_against_measured.predicted_low IS 'lower end of its interval';
COMMENT ON COLUMN predicted_against_measured.predicted_high IS 'upper end of its interval';
COMMENT ON COLUMN predicted_against_measured.measured IS 'measured requests per second and GPU; 0: the SLO is not met';
COMMENT ON COLUMN predicted_against_measured.error IS 'predicted / measured - 1; null where the SLO is not met';
COMMENT ON COLUMN predicted_against_measured.within IS 'whether the measured rate is in the interval';
COMMENT ON COLUMN predicted_against_measured.predicted_at IS 'when it was predicted';
COMMENT ON COLUMN predicted_against_measured.measured_at IS 'when it was measured';
