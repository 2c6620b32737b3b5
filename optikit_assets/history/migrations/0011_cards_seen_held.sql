-- A pool has at least the cards that were seen held at once: each of several control machines says of its own alone.

CREATE OR REPLACE VIEW utilization AS
WITH ordered AS (
    SELECT *, max(held_to) OVER (
        PARTITION BY pool ORDER BY held_from, lease ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS busy_until
    FROM leases
), numbered AS (
    SELECT *, count(*) FILTER (busy_until IS NULL OR held_from > busy_until + INTERVAL 10 MINUTE) OVER (
        PARTITION BY pool ORDER BY held_from, lease
    ) AS stretch
    FROM ordered
), stretches AS (
    SELECT pool, stretch,
           min(held_from) AS started_at,
           max(held_to) AS ended_at,
           max(slots) AS slots,
           count(*) AS leases,
           sum(cards * epoch(held_to - held_from)) AS busy_card_s
    FROM numbered GROUP BY ALL
), held AS (
    SELECT pool, stretch, node, unnest(from_json(devices, '["VARCHAR"]')) AS device FROM numbered
), seen AS (
    -- Of several control machines each has a pool of its own called local.
    SELECT pool, stretch, count(DISTINCT concat_ws(':', node, device)) AS devices
    FROM held GROUP BY ALL
)
SELECT pool, stretch, started_at, ended_at, greatest(slots, coalesce(devices, 0)) AS cards, leases,
       busy_card_s,
       busy_card_s / nullif(cards * epoch(ended_at - started_at), 0) AS utilization
FROM stretches LEFT JOIN seen USING (pool, stretch)
ORDER BY started_at, pool;
COMMENT ON VIEW utilization IS
    'Share of a pool''s card time that was leased, per stretch of work: one ends where no card was held for ten minutes.';
COMMENT ON COLUMN utilization.stretch IS 'number of the stretch within its pool, from 1';
COMMENT ON COLUMN utilization.cards IS 'cards of the pool: as many as its leases say there are, or as were seen held if those are more';
COMMENT ON COLUMN utilization.leases IS 'number of leases';
COMMENT ON COLUMN utilization.busy_card_s IS 'seconds that cards were held, of all cards together';
COMMENT ON COLUMN utilization.utilization IS 'busy_card_s as share of what the pool has from the first lease to the end of the last';
