-- Hardware pools, and who held which cards when.
--
-- The pool is null for the machine itself: what was measured before there were pools was measured
-- there. Leases name it, and call the machine itself local.

ALTER TABLE sweeps ADD COLUMN pool VARCHAR;
ALTER TABLE probes ADD COLUMN pool VARCHAR;
ALTER TABLE ladder_rungs ADD COLUMN pool VARCHAR;
ALTER TABLE requests ADD COLUMN pool VARCHAR;
ALTER TABLE tuning_trials ADD COLUMN pool VARCHAR;
ALTER TABLE materializations ADD COLUMN pool VARCHAR;
ALTER TABLE deployments ADD COLUMN pool VARCHAR;
ALTER TABLE deployments ADD COLUMN pools JSON;
COMMENT ON COLUMN sweeps.pool IS 'hardware pool; null: the machine itself';
COMMENT ON COLUMN probes.pool IS 'hardware pool; null: the machine itself';
COMMENT ON COLUMN ladder_rungs.pool IS 'hardware pool; null: the machine itself';
COMMENT ON COLUMN requests.pool IS 'hardware pool; null: the machine itself';
COMMENT ON COLUMN tuning_trials.pool IS 'hardware pool; null: the machine itself';
COMMENT ON COLUMN materializations.pool IS 'hardware pool that its workers were on; null: the machine itself';
COMMENT ON COLUMN deployments.pool IS 'hardware pool that it was certified on; null: the machine itself';
COMMENT ON COLUMN deployments.pools IS 'what every pool serves at which cost: list of {pool, accelerator, evidence, recipe, rate_per_gpu, price_per_hour, cost_per_million_tokens, deployed, …}; null where there is one pool of which no price is known';

CREATE TABLE leases (
    lease     VARCHAR PRIMARY KEY,
    pool      VARCHAR NOT NULL,
    slots     INTEGER,
    node      VARCHAR,
    devices   JSON,
    cards     INTEGER NOT NULL,
    asset     VARCHAR,
    partition VARCHAR,
    run_id    VARCHAR,
    worker    VARCHAR,
    held_from TIMESTAMPTZ NOT NULL,
    held_to   TIMESTAMPTZ NOT NULL,
    returned  BOOLEAN NOT NULL
);
COMMENT ON TABLE leases IS 'Who held which cards of which node when, and for what.';
COMMENT ON COLUMN leases.lease IS 'id of the lease';
COMMENT ON COLUMN leases.pool IS 'hardware pool; local is the machine itself';
COMMENT ON COLUMN leases.slots IS 'cards of the whole pool, as they were then; 1 for a node without cards';
COMMENT ON COLUMN leases.node IS 'name of the node';
COMMENT ON COLUMN leases.devices IS 'list of the cards, as CUDA_VISIBLE_DEVICES names them there; cpu on a node without cards';
COMMENT ON COLUMN leases.cards IS 'number of cards';
COMMENT ON COLUMN leases.asset IS 'asset that they were held for; null in a job beside the graph';
COMMENT ON COLUMN leases.partition IS 'partition key of the asset';
COMMENT ON COLUMN leases.worker IS 'worker that ran: compress, evaluate or benchmark; null if none did';
COMMENT ON COLUMN leases.held_from IS 'when they were granted';
COMMENT ON COLUMN leases.held_to IS 'when they were given back, or the last moment at which they were seen held';
COMMENT ON COLUMN leases.returned IS 'whether they were given back; false while they are held, and for ever if the holder was killed';

CREATE VIEW utilization AS
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
           max(slots) AS cards,
           count(*) AS leases,
           sum(cards * epoch(held_to - held_from)) AS busy_card_s
    FROM numbered GROUP BY ALL
)
SELECT pool, stretch, started_at, ended_at, cards, leases, busy_card_s,
       busy_card_s / nullif(cards * epoch(ended_at - started_at), 0) AS utilization
FROM stretches
ORDER BY started_at, pool;
COMMENT ON VIEW utilization IS
    'Share of a pool''s card time that was leased, per stretch of work: one ends where no card was held for ten minutes.';
COMMENT ON COLUMN utilization.stretch IS 'number of the stretch within its pool, from 1';
COMMENT ON COLUMN utilization.cards IS 'cards of the pool';
COMMENT ON COLUMN utilization.leases IS 'number of leases';
COMMENT ON COLUMN utilization.busy_card_s IS 'seconds that cards were held, of all cards together';
COMMENT ON COLUMN utilization.utilization IS 'busy_card_s as share of what the pool has from the first lease to the end of the last';

CREATE VIEW partition_seconds AS
WITH runs AS (
    SELECT l.asset, l.partition, l.run_id, min(l.held_from) AS first_from, max(l.held_to) AS last_to
    FROM leases l
    -- What broke off says nothing of how long the whole takes.
    SEMI JOIN materializations m
        ON m.run_id = l.run_id AND m.asset = l.asset AND m.partition = l.partition
    GROUP BY ALL
)
SELECT asset, partition,
       epoch(arg_max(last_to, first_from) - max(first_from)) AS seconds
FROM runs GROUP BY ALL;
COMMENT ON VIEW partition_seconds IS
    'How long a partition took when it was last made, from its first lease to the end of its last; without what was found in the store.';
COMMENT ON COLUMN partition_seconds.seconds IS 'duration';

CREATE OR REPLACE VIEW current_sweeps AS
WITH keys AS (
    SELECT model, recipe, slo, pool, content_key,
           greatest(max(started_at), max(materialized_at)) AS seen
    FROM sweeps LEFT JOIN key_last_seen USING (content_key)
    GROUP BY ALL
), newest AS (
    SELECT model, recipe, slo, pool,
           arg_max(content_key, coalesce(seen, '-infinity'::TIMESTAMPTZ)) AS content_key
    FROM keys GROUP BY ALL
)
SELECT * FROM sweeps SEMI JOIN newest USING (content_key);
COMMENT ON VIEW current_sweeps IS 'Latest sweep of each model, recipe, SLO and pool.';

CREATE OR REPLACE VIEW current_tuning_trials AS
WITH keys AS (
    SELECT model, recipe, slo, pool, content_key,
           greatest(max(started_at), max(materialized_at)) AS seen
    FROM tuning_trials LEFT JOIN key_last_seen USING (content_key)
    GROUP BY ALL
), newest AS (
    SELECT model, recipe, slo, pool,
           arg_max(content_key, coalesce(seen, '-infinity'::TIMESTAMPTZ)) AS content_key
    FROM keys GROUP BY ALL
)
SELECT * FROM tuning_trials SEMI JOIN newest USING (content_key);
COMMENT ON VIEW current_tuning_trials IS 'Trials of the latest study of each model, recipe, SLO and pool.';

CREATE OR REPLACE VIEW current_deployments AS
WITH keys AS (
    SELECT model, slo, content_key,
           greatest(max(started_at), max(materialized_at)) AS seen
    FROM deployments LEFT JOIN key_last_seen USING (content_key)
    GROUP BY ALL
), newest AS (
    SELECT model, slo, arg_max(content_key, coalesce(seen, '-infinity'::TIMESTAMPTZ)) AS content_key
    FROM keys GROUP BY ALL
)
SELECT * FROM deployments SEMI JOIN newest USING (content_key);
COMMENT ON VIEW current_deployments IS 'Latest certification of each model and SLO.';

CREATE OR REPLACE VIEW measured_configurations AS
WITH accepted AS (
    SELECT model, recipe, accepted, verdict, q_star_trial, mean_recovery FROM current_quality_gates
), measured AS (
    SELECT model, recipe, slo, 'default' AS flags_from, NULL::INTEGER AS trial, status, flags,
           certified_rate_rps AS rate_rps, gpus, input_tokens, output_tokens, accelerator, reason,
           content_key, ended_at, pool,
           coalesce(rate_per_gpu, certified_rate_rps / nullif(gpus, 0)) AS measured_rate_per_gpu
    FROM current_sweeps
    UNION ALL BY NAME
    SELECT model, recipe, slo, 'tuned' AS flags_from, trial, status, flags,
           rate_rps, gpus, input_tokens, output_tokens, accelerator, reason,
           content_key, ended_at, pool,
           coalesce(rate_per_gpu, rate_rps / nullif(gpus, 0)) AS measured_rate_per_gpu
    FROM current_tuning_trials
    -- One configuration per study: its best trial, or the reason of the first if none is feasible.
    QUALIFY row_number() OVER (
        PARTITION BY content_key
        ORDER BY status = 'feasible' DESC, measured_rate_per_gpu DESC NULLS LAST, trial
    ) = 1
)
SELECT m.* EXCLUDE (measured_rate_per_gpu),
       CASE WHEN m.status = 'feasible' THEN m.measured_rate_per_gpu END AS rate_per_gpu,
       m.recipe = 'baseline' OR coalesce(a.accepted, false) AS quality_accepted,
       CASE WHEN m.recipe = 'baseline' THEN 'baseline' ELSE a.verdict END AS quality_verdict,
       CASE WHEN m.recipe = 'baseline' THEN 1.0 ELSE a.mean_recovery END AS mean_recovery
FROM measured m LEFT JOIN accepted a USING (model, recipe);
COMMENT ON VIEW measured_configurations IS
    'Every recipe with default and with tuned flags, per model, SLO and pool, and whether it may be deployed.';
COMMENT ON COLUMN measured_configurations.flags_from IS 'default: engine defaults; tuned: best trial of the study';
COMMENT ON COLUMN measured_configurations.rate_per_gpu IS 'SLO-compliant requests per second and GPU; null if the SLO is not met';
COMMENT ON COLUMN measured_configurations.quality_accepted IS 'whether the quality gate accepted the recipe';

CREATE OR REPLACE VIEW table5 AS
WITH arms (arm, position, compressed, flags_from) AS (
    VALUES ('baseline', 1, false, 'default'),
           ('quantization_only', 2, true, 'default'),
           ('tuning_only', 3, false, 'tuned'),
           ('quantization_and_tuning', 4, true, 'tuned')
), scenarios AS (
    -- The arms of one pool are compared: of the one that is deployed on, else of the fastest.
    SELECT m.model, m.slo, m.pool
    FROM measured_configurations m LEFT JOIN current_deployments d USING (model, slo)
    QUALIFY row_number() OVER (
        PARTITION BY m.model, m.slo
        ORDER BY (d.content_key IS NOT NULL AND m.pool IS NOT DISTINCT FROM d.pool) DESC,
                 m.rate_per_gpu DESC NULLS LAST, m.pool NULLS FIRST
    ) = 1
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
    JOIN scenarios s
        ON s.model = c.model AND s.slo = c.slo AND s.pool IS NOT DISTINCT FROM c.pool
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
           c.content_key, s.pool
    FROM scenarios s CROSS JOIN arms a LEFT JOIN candidates c USING (model, slo, arm)
    LEFT JOIN certificates e ON e.model = s.model AND e.slo = s.slo AND e.found.name = a.arm
)
SELECT r.model, r.slo, r.arm, r.recipe, r.status, r.evidence, r.deployed, r.rate_rps, r.gpus,
       r.rate_per_gpu, r.rate_per_gpu * r.output_tokens AS output_tokens_per_s_per_gpu,
       CASE WHEN r.judged THEN r.certified_gain
            ELSE r.rate_per_gpu / nullif(b.rate_per_gpu, 0) END AS gain,
       r.gain_low, r.gain_high, r.claimed_rps, r.refuted_rps,
       r.mean_recovery, r.flags, r.reason, r.content_key, r.pool
FROM rows r LEFT JOIN rows b ON b.model = r.model AND b.slo = r.slo AND b.arm = 'baseline'
ORDER BY r.model, r.slo, r.position;
COMMENT ON VIEW table5 IS
    'The four arms per model and SLO: SLO-compliant rate per GPU and gain over the baseline (paper, Table 5).';
COMMENT ON COLUMN table5.arm IS 'baseline, quantization_only, tuning_only or quantization_and_tuning';
COMMENT ON COLUMN table5.recipe IS 'recipe of the arm: the deployed one, else one that was certified beside it, else the fastest that the quality gate accepted, else the one that the decision knew';
COMMENT ON COLUMN table5.status IS 'of the search: feasible, infeasible, unresolved, failed, or missing if nothing was measured';
COMMENT ON COLUMN table5.evidence IS 'confirmed (on fresh servers, side by side with the baseline), measured (by its search alone), refuted (no rate held on fresh servers), skipped (asked for, but there is no measurement) or not_asked';
COMMENT ON COLUMN table5.deployed IS 'whether this arm is the certified deployment';
COMMENT ON COLUMN table5.rate_rps IS 'requests per second: certified with fresh arrivals if confirmed, null if refuted or if the SLO is met at no rate, else as the search measured it';
COMMENT ON COLUMN table5.rate_per_gpu IS 'rate_rps / gpus; null if the SLO is not met';
COMMENT ON COLUMN table5.gain IS 'multiple of the baseline: of both limits side by side if confirmed, else of the rates that two searches measured; null if the baseline misses the SLO';
COMMENT ON COLUMN table5.gain_low IS 'lower end of the interval of the gain; null if it is only measured';
COMMENT ON COLUMN table5.gain_high IS 'upper end of the interval of the gain; null if it is only measured';
COMMENT ON COLUMN table5.claimed_rps IS 'rate that the search found; null if it found none';
COMMENT ON COLUMN table5.refuted_rps IS 'the rate that the search found, where fresh servers did not bear it out';
COMMENT ON COLUMN table5.mean_recovery IS 'mean score relative to the uncompressed model';
COMMENT ON COLUMN table5.pool IS 'hardware pool that the arms were measured on: the one that is deployed on, else the fastest; null: the machine itself';
