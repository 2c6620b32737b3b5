CREATE OR REPLACE VIEW partition_seconds AS
WITH runs AS (
    SELECT l.asset, l.partition, l.run_id, min(l.held_from) AS first_from, max(l.held_to) AS last_to,
           sum(l.cards * epoch(l.held_to - l.held_from)) AS card_seconds
    FROM leases l
    -- What broke off says nothing of how long the whole takes.
    SEMI JOIN materializations m
        ON m.run_id = l.run_id AND m.asset = l.asset AND m.partition = l.partition
    GROUP BY ALL
)
SELECT asset, partition,
       epoch(arg_max(last_to, first_from) - max(first_from)) AS seconds,
       arg_max(card_seconds, first_from) AS card_seconds
FROM runs GROUP BY ALL;
COMMENT ON VIEW partition_seconds IS
    'How long a partition took when it was last made, from its first lease to the end of its last; without what was found in the store.';
COMMENT ON COLUMN partition_seconds.seconds IS 'duration';
COMMENT ON COLUMN partition_seconds.card_seconds IS 'accelerators times the seconds that they were held';
