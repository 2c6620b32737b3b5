-- What was certified, measured again.

CREATE TABLE recertifications (
    recertification    VARCHAR PRIMARY KEY,
    model              VARCHAR NOT NULL,
    slo                VARCHAR NOT NULL,
    bundle_key         VARCHAR NOT NULL,
    recipe             VARCHAR,
    verdict            VARCHAR NOT NULL,
    against            VARCHAR NOT NULL,
    ratio              DOUBLE,
    ratio_low          DOUBLE,
    ratio_high         DOUBLE,
    rounds             INTEGER NOT NULL,
    certified_rate_rps DOUBLE NOT NULL,
    held_rate_rps      DOUBLE,
    accelerator        VARCHAR NOT NULL,
    certified_versions JSON NOT NULL,
    versions           JSON NOT NULL,
    server_starts      INTEGER NOT NULL,
    load_seconds       DOUBLE NOT NULL,
    summary            VARCHAR NOT NULL,
    run_id             VARCHAR NOT NULL,
    recertified_at     TIMESTAMPTZ NOT NULL
);
COMMENT ON TABLE recertifications IS 'One measurement of a shipped configuration on the engine installed then, against what it was certified for.';
COMMENT ON COLUMN recertifications.recertification IS 'key of the artifact';
COMMENT ON COLUMN recertifications.bundle_key IS 'content key of the bundle';
COMMENT ON COLUMN recertifications.verdict IS 'holds, regressed, improved or unresolved';
COMMENT ON COLUMN recertifications.against IS 'engine: the one it was certified on, served in turn; record: what was written down then';
COMMENT ON COLUMN recertifications.ratio IS 'highest rate over the one of then, with its interval; null where no two rounds read both';
COMMENT ON COLUMN recertifications.held_rate_rps IS 'highest rate that all probes vouch for together';
COMMENT ON COLUMN recertifications.certified_versions IS 'of the engine and what it stands on, when it was certified';
COMMENT ON COLUMN recertifications.versions IS 'of those, when it was measured again';

CREATE VIEW newest_pool_prices AS
SELECT offer.pool, arg_max_null(offer.price_per_hour, started_at) AS price_per_hour
FROM (
    SELECT started_at, unnest(from_json(pools, '[{"pool": "VARCHAR", "price_per_hour": "DOUBLE"}]')) AS offer
    FROM deployments WHERE pools IS NOT NULL
    UNION ALL
    -- On this machine alone, without a price, there is nothing to choose from.
    SELECT started_at, {'pool': 'local', 'price_per_hour': NULL::DOUBLE}
    FROM deployments WHERE pool IS NULL AND pools IS NULL
)
GROUP BY ALL;
COMMENT ON VIEW newest_pool_prices IS 'What a card of each pool costs an hour, as the newest decision knew it; null if it had no price any more.';

CREATE OR REPLACE VIEW deployment_costs AS
WITH held AS (
    SELECT split_part(partition, '|', 1) AS model,
           -- Scenarios are RECIPE@SLO@POOL; checkpoints and scores are of no SLO.
           CASE asset WHEN 'benchmark_sweep' THEN split_part(split_part(partition, '|', 2), '@', 2)
                      WHEN 'tuned_config' THEN split_part(split_part(partition, '|', 2), '@', 2)
                      WHEN 'deployable_config' THEN split_part(partition, '|', 2)
           END AS slo,
           pool,
           cards * epoch(held_to - held_from) / 3600 AS card_hours
    FROM leases
    -- What is measured again later found nothing.
    WHERE asset IN ('quantized_model', 'eval_scores', 'benchmark_sweep', 'tuned_config', 'deployable_config')
), spent AS (
    SELECT model, slo, sum(card_hours) AS card_hours,
           -- Null if any of it has no price: a sum without it would be too low.
           CASE WHEN count(*) = count(price_per_hour) THEN sum(card_hours * price_per_hour) END AS cost
    FROM held LEFT JOIN newest_pool_prices USING (pool)
    GROUP BY ALL
), totals AS (
    SELECT d.model, d.slo, d.chosen_recipe AS recipe, d.gain, d.gain_low, d.gpus, d.certified_rate_rps,
           coalesce(own.card_hours, 0) AS own_card_hours,
           coalesce(shared.card_hours, 0) AS shared_card_hours,
           CASE WHEN own.model IS NULL THEN 0 ELSE own.cost END
               + CASE WHEN shared.model IS NULL THEN 0 ELSE shared.cost END AS cost
    FROM current_deployments d
    LEFT JOIN spent own ON own.model = d.model AND own.slo = d.slo
    LEFT JOIN spent shared ON shared.model = d.model AND shared.slo IS NULL
)
SELECT model, slo, recipe, own_card_hours, shared_card_hours, cost, gain, gain_low, certified_rate_rps, gpus,
       -- One replica's traffic takes gpus cards now, and gain times as many as the plain baseline.
       CASE WHEN gain > 1 THEN gpus * (gain - 1) END AS cards_saved,
       CASE WHEN gain > 1 THEN (own_card_hours + shared_card_hours) / (gpus * (gain - 1)) END AS payback_hours,
       CASE WHEN gain_low > 1 THEN (own_card_hours + shared_card_hours) / (gpus * (gain_low - 1)) END
           AS payback_hours_at_most
FROM totals
ORDER BY model, slo;
COMMENT ON VIEW deployment_costs IS
    'Card time that went into each deployment, and how long it has to serve its certified rate until it has saved as much.';
COMMENT ON COLUMN deployment_costs.own_card_hours IS 'cards times hours that sweeps, studies and certification under this SLO held, in all runs';
COMMENT ON COLUMN deployment_costs.shared_card_hours IS 'cards times hours of the model''s checkpoints and scores, which all its SLOs share';
COMMENT ON COLUMN deployment_costs.cost IS 'price of both, by the prices of recipes/hardware/; null if one of the pools has none';
COMMENT ON COLUMN deployment_costs.cards_saved IS 'cards that the plain baseline would need more for the certified rate of one replica; null without a gain';
COMMENT ON COLUMN deployment_costs.payback_hours IS 'hours of that traffic until the cards saved have made up for the card time spent; for N times the traffic, divide by N';
COMMENT ON COLUMN deployment_costs.payback_hours_at_most IS 'the same by the lower end of the gain; null where no gain is proven';
