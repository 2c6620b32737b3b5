-- Whose models took which card time.

ALTER TABLE materializations ADD COLUMN owner VARCHAR;
COMMENT ON COLUMN materializations.owner IS 'owner of the model then (recipes/models/); null if its file names none';

CREATE VIEW team_costs AS
WITH owners AS (
    -- Whoever owns a model now has what it took before, too.
    SELECT split_part(model, '@', 1) AS family, arg_max_null(owner, materialized_at) AS owner
    FROM materializations WHERE model IS NOT NULL
    GROUP BY ALL
), held AS (
    SELECT split_part(split_part(partition, '|', 1), '@', 1) AS family, pool,
           cards * epoch(held_to - held_from) / 3600 AS card_hours
    FROM leases WHERE asset IS NOT NULL
)
SELECT owner, count(DISTINCT family) AS models, sum(card_hours) AS card_hours,
       -- Null if any of it has no price: a sum without it would be too low.
       CASE WHEN count(*) = count(price_per_hour) THEN sum(card_hours * price_per_hour) END AS cost
FROM held LEFT JOIN owners USING (family) LEFT JOIN newest_pool_prices USING (pool)
GROUP BY owner
ORDER BY card_hours DESC;
COMMENT ON VIEW team_costs IS 'Card time of all stages by the owner of the model; null: of models whose file names nobody.';
COMMENT ON COLUMN team_costs.models IS 'model families that held cards';
COMMENT ON COLUMN team_costs.card_hours IS 'cards times hours, in all runs, those that broke off too';
COMMENT ON COLUMN team_costs.cost IS 'price of it, by the prices of recipes/hardware/; null if one of the pools has none';
