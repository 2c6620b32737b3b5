-- A million input tokens too. A card hour serves input and output at once, and no measurement says
-- how they share it, so each kind is charged the whole of it: as if the other one were free.

CREATE OR REPLACE VIEW cost_per_million_tokens AS
WITH offers AS (
    SELECT started_at,
           unnest(from_json(pools, '[{"pool": "VARCHAR", "price_per_hour": "DOUBLE"}]')) AS found
    FROM deployments WHERE pools IS NOT NULL
), declared AS (
    -- A price that was taken out of the file is none.
    SELECT found.pool AS pool, arg_max_null(found.price_per_hour, started_at) AS price_per_hour
    FROM offers GROUP BY ALL
), priced AS (
    SELECT c.*,
           CASE WHEN d.price_per_hour IS NULL THEN p.accelerator ELSE 'pool ' || d.pool END
               AS priced_as,
           coalesce(d.price_per_hour, p.usd_per_hour) AS usd_per_hour
    FROM measured_configurations c
    LEFT JOIN declared d ON d.pool = coalesce(c.pool, 'local')
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
       usd_per_hour / 3600 / rate_per_gpu * 1e6 / nullif(input_tokens, 0)
           AS usd_per_million_input_tokens,
       usd_per_hour / 3600 / rate_per_gpu * 1e6 / nullif(input_tokens + output_tokens, 0)
           AS usd_per_million_tokens,
       usd_per_hour / 3600 / rate_per_gpu * 1e3 AS usd_per_thousand_requests,
       pool
FROM priced
ORDER BY model, slo, usd_per_million_tokens;
COMMENT ON VIEW cost_per_million_tokens IS
    'What tokens cost at the SLO-compliant rate: with the price of the pool, as the last decision that named it knew it, else with that of the accelerator in the table prices.';
COMMENT ON COLUMN cost_per_million_tokens.priced_as IS 'pool NAME where its file has a price, else the row of prices that applies; null if none does';
COMMENT ON COLUMN cost_per_million_tokens.usd_per_hour IS 'of one card: US dollars, or the currency of the pools'' files';
COMMENT ON COLUMN cost_per_million_tokens.usd_per_million_tokens IS 'US dollars, or the currency of the pools'' files, per million input and output tokens together';
COMMENT ON COLUMN cost_per_million_tokens.usd_per_million_input_tokens IS 'the same per million input tokens, as if output were free: charged the whole card hour, so not to be added to that of output';
COMMENT ON COLUMN cost_per_million_tokens.usd_per_million_output_tokens IS 'the same per million output tokens, as if input were free: charged the whole card hour, so not to be added to that of input';
COMMENT ON COLUMN cost_per_million_tokens.pool IS 'hardware pool; null: the machine itself';
