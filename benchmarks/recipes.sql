-- One row per recipe of a model: what its checkpoints weigh and cost, what they score, how fast q* is.
WITH trials AS (
    SELECT recipe,
           count(*) FILTER (WHERE status = 'finished') AS trials,
           avg(bytes) FILTER (WHERE status = 'finished') AS bytes,
           avg(base_bytes) AS base_bytes,
           avg(seconds) FILTER (WHERE status = 'finished') AS seconds
    FROM current_quantization_trials
    WHERE model = $model
    GROUP BY recipe
)
SELECT r.recipe, t.trials, t.bytes, t.bytes / t.base_bytes AS share, t.seconds,
       g.mean_recovery AS recovery, g.mean_recovery_low AS low, g.mean_recovery_high AS high,
       g.verdict, s.status, s.certified_rate_rps AS rate, s.reason
FROM (SELECT unnest($recipes::VARCHAR[]) AS recipe) r
LEFT JOIN trials t USING (recipe)
LEFT JOIN current_quality_gates g ON g.recipe = r.recipe AND g.model = $model
LEFT JOIN current_sweeps s ON s.recipe = r.recipe AND s.model = $model AND s.slo = $slo
ORDER BY s.certified_rate_rps DESC NULLS LAST, recovery DESC NULLS LAST, r.recipe
