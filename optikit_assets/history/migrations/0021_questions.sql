-- Answers to what people ask for: what a month cost, which trial gained most, what a decision changed.

CREATE VIEW monthly_costs AS
WITH offers AS (
    SELECT started_at,
           unnest(from_json(pools, '[{"pool": "VARCHAR", "price_per_hour": "DOUBLE"}]')) AS found
    FROM deployments WHERE pools IS NOT NULL
), declared AS (
    -- A price that was taken out of the file is none.
    SELECT found.pool AS pool, arg_max_null(found.price_per_hour, started_at) AS price_per_hour
    FROM offers GROUP BY ALL
), cards AS (
    SELECT pool, arg_max(accelerator, coalesce(ended_at, '-infinity'::TIMESTAMPTZ)) AS accelerator
    FROM (
        SELECT coalesce(pool, 'local') AS pool, accelerator, ended_at FROM sweeps
        UNION ALL
        SELECT coalesce(pool, 'local') AS pool, accelerator, ended_at FROM tuning_trials
    )
    GROUP BY ALL
), priced AS (
    SELECT held.pool,
           CASE WHEN d.price_per_hour IS NULL THEN p.accelerator ELSE 'pool ' || d.pool END
               AS priced_as,
           coalesce(d.price_per_hour, p.usd_per_hour) AS price_per_hour
    FROM (SELECT DISTINCT pool FROM leases) held
    LEFT JOIN declared d ON d.pool = held.pool
    LEFT JOIN cards c ON c.pool = held.pool
    LEFT JOIN prices p ON contains(lower(c.accelerator), lower(p.accelerator))
    -- 'L40S' is also an 'L4' by name: the longest match wins.
    QUALIFY row_number() OVER (
        PARTITION BY held.pool ORDER BY length(p.accelerator) DESC NULLS LAST, p.is_default
    ) = 1
)
SELECT date_trunc('month', held_from)::DATE AS month, asset, pool,
       nullif(split_part(partition, '|', 1), '') AS model,
       count(*) AS leases,
       sum(cards * epoch(held_to - held_from)) / 3600 AS card_hours,
       priced_as,
       sum(cards * epoch(held_to - held_from) * price_per_hour) / 3600 AS cost
FROM leases LEFT JOIN priced USING (pool)
GROUP BY ALL
ORDER BY month DESC, cost DESC NULLS LAST, asset, pool, model;
COMMENT ON VIEW monthly_costs IS
    'Card time of every month by stage, pool and model, and what it cost: with the price of the pool, as the last decision that named it knew it, else with that of the accelerator in the table prices.';
COMMENT ON COLUMN monthly_costs.month IS 'first day of the month in which the cards were granted, by the session''s time zone';
COMMENT ON COLUMN monthly_costs.asset IS 'stage that they were held for; null in a job beside the graph';
COMMENT ON COLUMN monthly_costs.leases IS 'number of leases';
COMMENT ON COLUMN monthly_costs.card_hours IS 'cards times hours that they were held, also by what broke off';
COMMENT ON COLUMN monthly_costs.priced_as IS 'pool NAME where its file has a price, else the row of prices that applies; null if none does';
COMMENT ON COLUMN monthly_costs.cost IS 'US dollars, or the currency of the pools'' files; null without a price';

CREATE VIEW trial_gains AS
WITH trials AS (
    SELECT model, recipe, slo, coalesce(pool, 'local') AS pool, study, trial, flags, is_best,
           coalesce(rate_per_gpu, rate_rps / nullif(gpus, 0)) AS rate_per_gpu,
           accelerator, run_id, content_key
    FROM current_tuning_trials
    -- What a server showed that was started with other flags is no measurement of these.
    WHERE status = 'feasible' AND retuned IS NOT TRUE
), plain AS (
    SELECT model, slo, coalesce(pool, 'local') AS pool,
           coalesce(rate_per_gpu, certified_rate_rps / nullif(gpus, 0)) AS rate_per_gpu
    FROM current_sweeps WHERE recipe = 'baseline' AND status = 'feasible'
)
SELECT t.* EXCLUDE (rate_per_gpu, accelerator, run_id, content_key), t.rate_per_gpu,
       d.rate_per_gpu AS default_rate_per_gpu,
       t.rate_per_gpu / nullif(d.rate_per_gpu, 0) AS gain_over_default,
       b.rate_per_gpu AS baseline_rate_per_gpu,
       t.rate_per_gpu / nullif(b.rate_per_gpu, 0) AS gain_over_baseline,
       t.accelerator, t.run_id, t.content_key
FROM trials t
LEFT JOIN trials d ON d.content_key = t.content_key AND d.trial = 0
LEFT JOIN plain b ON b.model = t.model AND b.slo = t.slo AND b.pool = t.pool
ORDER BY gain_over_baseline DESC NULLS LAST, gain_over_default DESC NULLS LAST, t.model, t.slo, t.trial;
COMMENT ON VIEW trial_gains IS
    'Feasible trials of the latest studies, what gained most first. Rates are those that the searches found, the best of many: certified gains are in table5.';
COMMENT ON COLUMN trial_gains.pool IS 'hardware pool; local is the machine itself';
COMMENT ON COLUMN trial_gains.default_rate_per_gpu IS 'rate of the same recipe with the engine''s default flags, trial 0';
COMMENT ON COLUMN trial_gains.gain_over_default IS 'rate_per_gpu / default_rate_per_gpu';
COMMENT ON COLUMN trial_gains.baseline_rate_per_gpu IS 'rate of the uncompressed model with default flags, on the same pool';
COMMENT ON COLUMN trial_gains.gain_over_baseline IS 'rate_per_gpu / baseline_rate_per_gpu';

CREATE VIEW deployment_facts AS
SELECT content_key, 'model' AS what, model AS value FROM deployments
UNION ALL
SELECT content_key, what, value
FROM (
    SELECT content_key, status::VARCHAR AS status, chosen_recipe AS recipe, tuned::VARCHAR AS tuned,
           coalesce(pool, 'local') AS pool, accelerator, gpus::VARCHAR AS gpus,
           certified_rate_rps::VARCHAR AS certified_rate_rps,
           rate_per_gpu::VARCHAR AS rate_per_gpu, gain::VARCHAR AS gain,
           gain_low::VARCHAR AS gain_low, quality_verdict, mean_recovery::VARCHAR AS mean_recovery
    FROM deployments
) UNPIVOT (value FOR what IN (
    status, recipe, tuned, pool, accelerator, gpus, certified_rate_rps, rate_per_gpu, gain,
    gain_low, quality_verdict, mean_recovery
))
UNION ALL
SELECT content_key, 'flag ' || key, json_extract_string(flags, '$."' || key || '"')
FROM (SELECT content_key, flags, unnest(json_keys(flags)) AS key FROM deployments)
UNION ALL
SELECT content_key, 'version ' || key, json_extract_string(versions, '$."' || key || '"')
FROM (SELECT content_key, versions, unnest(json_keys(versions)) AS key FROM deployments);
COMMENT ON VIEW deployment_facts IS 'What is true of each decision, a row per fact: any two can be compared by what.';
COMMENT ON COLUMN deployment_facts.what IS 'what the row is about; flags and versions have a row each';
COMMENT ON COLUMN deployment_facts.value IS 'its value as text; a fact without a value has no row';

CREATE VIEW deployment_changes AS
WITH decided AS (
    SELECT split_part(d.model, '@', 1) AS family, d.slo, d.model, d.content_key, m.materialized_at
    FROM materializations m JOIN deployments d ON d.content_key = m.content_key
    WHERE m.asset = 'deployable_config'
), steps AS (
    SELECT *,
           lag(content_key) OVER in_order AS previous_key,
           lag(model) OVER in_order AS previous_model
    FROM decided
    WINDOW in_order AS (PARTITION BY family, slo ORDER BY materialized_at, content_key)
    -- The same decision recorded again changed nothing.
    QUALIFY previous_key <> content_key
), named AS (
    SELECT s.*, f.what FROM steps s JOIN deployment_facts f ON f.content_key = s.content_key
    UNION
    SELECT s.*, f.what FROM steps s JOIN deployment_facts f ON f.content_key = s.previous_key
)
SELECT n.materialized_at AS decided_at, n.previous_model, n.model, n.slo, n.what,
       b.value AS before, a.value AS after, n.previous_key, n.content_key
FROM named n
LEFT JOIN deployment_facts b ON b.content_key = n.previous_key AND b.what = n.what
LEFT JOIN deployment_facts a ON a.content_key = n.content_key AND a.what = n.what
WHERE b.value IS DISTINCT FROM a.value
ORDER BY decided_at DESC, n.model, n.slo, n.what;
COMMENT ON VIEW deployment_changes IS
    'What each decision changed against the one before it of the same model family and SLO, a row per change; the first one has none.';
COMMENT ON COLUMN deployment_changes.decided_at IS 'when the later one was recorded';
COMMENT ON COLUMN deployment_changes.previous_model IS 'model version of the one before';
COMMENT ON COLUMN deployment_changes.before IS 'value in the one before; null: it had none';
COMMENT ON COLUMN deployment_changes.after IS 'value in the later one; null: it has none';
COMMENT ON COLUMN deployment_changes.previous_key IS 'content key of the one before';
