-- Trial history, first version.
--
-- The columns model to ended_at are the same in every table. The primary key is what identifies a
-- result, so that recording it again replaces it instead of repeating it.

CREATE TABLE drained_files (
    name       VARCHAR PRIMARY KEY,
    table_name VARCHAR NOT NULL,
    rows       BIGINT NOT NULL,
    drained_at TIMESTAMPTZ NOT NULL DEFAULT current_timestamp
);
COMMENT ON TABLE drained_files IS 'Spool files that are loaded but perhaps not deleted yet.';

CREATE TABLE quantization_trials (
    model          VARCHAR NOT NULL,
    recipe         VARCHAR,
    slo            VARCHAR,
    content_key    VARCHAR NOT NULL,
    seed           UBIGINT,
    versions       JSON,
    accelerator    VARCHAR,
    run_id         VARCHAR,
    started_at     TIMESTAMPTZ,
    ended_at       TIMESTAMPTZ,
    trial          INTEGER NOT NULL,
    status         VARCHAR NOT NULL,
    reason         VARCHAR,
    artifact_key   VARCHAR,
    rows_digest    VARCHAR,
    seconds        DOUBLE,
    bytes          BIGINT,
    base_bytes     BIGINT,
    attempts       INTEGER,
    PRIMARY KEY (content_key, trial)
);
COMMENT ON TABLE quantization_trials IS 'One calibration trial of a recipe: a candidate checkpoint, or why there is none.';
COMMENT ON COLUMN quantization_trials.trial IS 'number of the calibration trial, from 0';
COMMENT ON COLUMN quantization_trials.status IS 'finished or failed';
COMMENT ON COLUMN quantization_trials.reason IS 'why the trial failed';
COMMENT ON COLUMN quantization_trials.artifact_key IS 'artifact with the checkpoint';
COMMENT ON COLUMN quantization_trials.rows_digest IS 'sha256 over the calibration rows the trial saw';
COMMENT ON COLUMN quantization_trials.seconds IS 'time the compression took';
COMMENT ON COLUMN quantization_trials.bytes IS 'size of the checkpoint''s weights';
COMMENT ON COLUMN quantization_trials.base_bytes IS 'size of the uncompressed weights';
COMMENT ON COLUMN quantization_trials.attempts IS 'how often the trial was tried';

CREATE TABLE evaluation_scores (
    model          VARCHAR NOT NULL,
    recipe         VARCHAR,
    slo            VARCHAR,
    content_key    VARCHAR NOT NULL,
    seed           UBIGINT,
    versions       JSON,
    accelerator    VARCHAR,
    run_id         VARCHAR,
    started_at     TIMESTAMPTZ,
    ended_at       TIMESTAMPTZ,
    trial          INTEGER NOT NULL,
    task           VARCHAR NOT NULL,
    metric         VARCHAR NOT NULL,
    score          DOUBLE,
    stderr         DOUBLE,
    items          BIGINT,
    num_fewshot    INTEGER,
    seconds        DOUBLE,
    suite          VARCHAR,
    artifact_key   VARCHAR,
    PRIMARY KEY (content_key, trial, task, metric)
);
COMMENT ON TABLE evaluation_scores IS 'Score of one candidate on one task and metric.';
COMMENT ON COLUMN evaluation_scores.trial IS 'calibration trial that was evaluated; 0 for the baseline';
COMMENT ON COLUMN evaluation_scores.task IS 'task of the evaluation suite';
COMMENT ON COLUMN evaluation_scores.metric IS 'metric and filter of the harness';
COMMENT ON COLUMN evaluation_scores.score IS 'mean over the items, 1 is best';
COMMENT ON COLUMN evaluation_scores.stderr IS 'standard error of the score';
COMMENT ON COLUMN evaluation_scores.items IS 'number of scored items';
COMMENT ON COLUMN evaluation_scores.num_fewshot IS 'worked examples in each prompt';
COMMENT ON COLUMN evaluation_scores.seconds IS 'time the evaluation took';
COMMENT ON COLUMN evaluation_scores.suite IS 'evaluation suite';
COMMENT ON COLUMN evaluation_scores.artifact_key IS 'artifact with the scores and all samples';

CREATE TABLE sample_outcomes (
    model          VARCHAR NOT NULL,
    recipe         VARCHAR,
    slo            VARCHAR,
    content_key    VARCHAR NOT NULL,
    seed           UBIGINT,
    versions       JSON,
    accelerator    VARCHAR,
    run_id         VARCHAR,
    started_at     TIMESTAMPTZ,
    ended_at       TIMESTAMPTZ,
    trial          INTEGER NOT NULL,
    task           VARCHAR NOT NULL,
    item_id        VARCHAR NOT NULL,
    score          DOUBLE,
    target         VARCHAR,
    response       VARCHAR,
    PRIMARY KEY (content_key, trial, task, item_id)
);
COMMENT ON TABLE sample_outcomes IS 'Outcome of one item of a task, what paired comparisons are made of.';
COMMENT ON COLUMN sample_outcomes.trial IS 'calibration trial that was evaluated; 0 for the baseline';
COMMENT ON COLUMN sample_outcomes.task IS 'task of the evaluation suite';
COMMENT ON COLUMN sample_outcomes.item_id IS 'item, equal over trials and recipes';
COMMENT ON COLUMN sample_outcomes.score IS 'score of the item, mean over the task''s metrics';
COMMENT ON COLUMN sample_outcomes.target IS 'expected answer';
COMMENT ON COLUMN sample_outcomes.response IS 'what the model answered';

CREATE TABLE comparisons (
    model          VARCHAR NOT NULL,
    recipe         VARCHAR,
    slo            VARCHAR,
    content_key    VARCHAR NOT NULL,
    seed           UBIGINT,
    versions       JSON,
    accelerator    VARCHAR,
    run_id         VARCHAR,
    started_at     TIMESTAMPTZ,
    ended_at       TIMESTAMPTZ,
    trial          INTEGER NOT NULL,
    task           VARCHAR NOT NULL,
    baseline_score DOUBLE,
    score          DOUBLE,
    items          BIGINT,
    recovery       DOUBLE,
    recovery_low   DOUBLE,
    recovery_high  DOUBLE,
    difference     DOUBLE,
    mcnemar_p      DOUBLE,
    holm_p         DOUBLE,
    noninferior_p  DOUBLE,
    margin         DOUBLE,
    gained         BIGINT,
    lost           BIGINT,
    items_needed   BIGINT,
    verdict        VARCHAR,
    selected       BOOLEAN,
    PRIMARY KEY (content_key, trial, task)
);
COMMENT ON TABLE comparisons IS 'Paired comparison of one candidate with the baseline on one task.';
COMMENT ON COLUMN comparisons.trial IS 'calibration trial that was compared';
COMMENT ON COLUMN comparisons.task IS 'task of the evaluation suite, or mean for all tasks together';
COMMENT ON COLUMN comparisons.baseline_score IS 'score of the uncompressed model';
COMMENT ON COLUMN comparisons.score IS 'score of the candidate';
COMMENT ON COLUMN comparisons.items IS 'number of paired items';
COMMENT ON COLUMN comparisons.recovery IS 'score / baseline_score';
COMMENT ON COLUMN comparisons.recovery_low IS 'lower bound of recovery, paired bootstrap';
COMMENT ON COLUMN comparisons.recovery_high IS 'upper bound of recovery, paired bootstrap';
COMMENT ON COLUMN comparisons.difference IS 'score - baseline_score';
COMMENT ON COLUMN comparisons.mcnemar_p IS 'exact McNemar test that both answer equally often right; null if not binary';
COMMENT ON COLUMN comparisons.holm_p IS 'mcnemar_p after Holm''s correction over the tasks';
COMMENT ON COLUMN comparisons.noninferior_p IS 'test that recovery is below 1 - margin; small means not inferior';
COMMENT ON COLUMN comparisons.margin IS 'largest tolerable loss of recovery';
COMMENT ON COLUMN comparisons.gained IS 'items answered right only by the candidate';
COMMENT ON COLUMN comparisons.lost IS 'items answered right only by the baseline';
COMMENT ON COLUMN comparisons.items_needed IS 'number of items that would decide an inconclusive test';
COMMENT ON COLUMN comparisons.verdict IS 'pass, fail or inconclusive';
COMMENT ON COLUMN comparisons.selected IS 'whether the trial is q*, the representative of its recipe';

CREATE TABLE quality_gates (
    model          VARCHAR NOT NULL,
    recipe         VARCHAR,
    slo            VARCHAR,
    content_key    VARCHAR NOT NULL,
    seed           UBIGINT,
    versions       JSON,
    accelerator    VARCHAR,
    run_id         VARCHAR,
    started_at     TIMESTAMPTZ,
    ended_at       TIMESTAMPTZ,
    verdict            VARCHAR NOT NULL,
    accepted           BOOLEAN NOT NULL,
    q_star_trial       INTEGER,
    artifact_key       VARCHAR,
    mean_recovery      DOUBLE,
    mean_recovery_low  DOUBLE,
    mean_recovery_high DOUBLE,
    margin             DOUBLE,
    suite              VARCHAR,
    trials_compared    INTEGER,
    reasons            JSON,
    PRIMARY KEY (content_key)
);
COMMENT ON TABLE quality_gates IS 'Verdict on a recipe for a model: whether its representative q* may be deployed.';
COMMENT ON COLUMN quality_gates.verdict IS 'pass, fail or inconclusive';
COMMENT ON COLUMN quality_gates.accepted IS 'whether the recipe may be deployed';
COMMENT ON COLUMN quality_gates.q_star_trial IS 'calibration trial that represents the recipe';
COMMENT ON COLUMN quality_gates.artifact_key IS 'checkpoint of q*';
COMMENT ON COLUMN quality_gates.mean_recovery IS 'weighted mean recovery of q* over the tasks';
COMMENT ON COLUMN quality_gates.mean_recovery_low IS 'lower bound of mean_recovery';
COMMENT ON COLUMN quality_gates.mean_recovery_high IS 'upper bound of mean_recovery';
COMMENT ON COLUMN quality_gates.margin IS 'largest tolerable loss of recovery';
COMMENT ON COLUMN quality_gates.suite IS 'evaluation suite';
COMMENT ON COLUMN quality_gates.trials_compared IS 'number of candidates that were compared';
COMMENT ON COLUMN quality_gates.reasons IS 'list of sentences behind the verdict';

CREATE TABLE sweeps (
    model          VARCHAR NOT NULL,
    recipe         VARCHAR,
    slo            VARCHAR,
    content_key    VARCHAR NOT NULL,
    seed           UBIGINT,
    versions       JSON,
    accelerator    VARCHAR,
    run_id         VARCHAR,
    started_at     TIMESTAMPTZ,
    ended_at       TIMESTAMPTZ,
    kind               VARCHAR NOT NULL DEFAULT 'default',
    status             VARCHAR NOT NULL,
    certified_rate_rps DOUBLE,
    rate_low_rps       DOUBLE,
    rate_high_rps      DOUBLE,
    gpus               INTEGER,
    rate_per_gpu       DOUBLE,
    input_tokens       INTEGER,
    output_tokens      INTEGER,
    load_seconds       DOUBLE,
    server_start_s     DOUBLE,
    probes             INTEGER,
    flags              JSON,
    reason             VARCHAR,
    closest            VARCHAR,
    artifact_key       VARCHAR,
    PRIMARY KEY (content_key)
);
COMMENT ON TABLE sweeps IS 'Highest SLO-compliant rate of q* with the engine''s default flags.';
COMMENT ON COLUMN sweeps.kind IS 'which flags were served: default';
COMMENT ON COLUMN sweeps.status IS 'feasible, infeasible, unresolved or failed';
COMMENT ON COLUMN sweeps.certified_rate_rps IS 'highest rate that met every objective in steady state';
COMMENT ON COLUMN sweeps.rate_low_rps IS 'lower bound of the rate';
COMMENT ON COLUMN sweeps.rate_high_rps IS 'upper bound of the rate';
COMMENT ON COLUMN sweeps.gpus IS 'accelerators the server used';
COMMENT ON COLUMN sweeps.rate_per_gpu IS 'certified_rate_rps / gpus';
COMMENT ON COLUMN sweeps.input_tokens IS 'prompt length of the workload';
COMMENT ON COLUMN sweeps.output_tokens IS 'answer length of the workload';
COMMENT ON COLUMN sweeps.load_seconds IS 'time under load, all probes together';
COMMENT ON COLUMN sweeps.server_start_s IS 'time until the server was ready';
COMMENT ON COLUMN sweeps.probes IS 'number of probes';
COMMENT ON COLUMN sweeps.flags IS 'engine flags';
COMMENT ON COLUMN sweeps.reason IS 'why the status is what it is';
COMMENT ON COLUMN sweeps.closest IS 'what came closest when the SLO cannot be met';
COMMENT ON COLUMN sweeps.artifact_key IS 'artifact with all records';

CREATE TABLE probes (
    model          VARCHAR NOT NULL,
    recipe         VARCHAR,
    slo            VARCHAR,
    content_key    VARCHAR NOT NULL,
    seed           UBIGINT,
    versions       JSON,
    accelerator    VARCHAR,
    run_id         VARCHAR,
    started_at     TIMESTAMPTZ,
    ended_at       TIMESTAMPTZ,
    stage                   VARCHAR NOT NULL,
    arm                     VARCHAR NOT NULL DEFAULT '',
    trial                   INTEGER NOT NULL DEFAULT 0,
    probe                   INTEGER NOT NULL,
    kind                    VARCHAR NOT NULL,
    rate_rps                DOUBLE,
    achieved_rate_rps       DOUBLE,
    duration_s              DOUBLE,
    requests                BIGINT,
    errors                  BIGINT,
    verdict                 VARCHAR,
    reason                  VARCHAR,
    beta                    DOUBLE,
    beta_low                DOUBLE,
    beta_high               DOUBLE,
    intercept_s             DOUBLE,
    correlation             DOUBLE,
    send_lag_p99_ms         DOUBLE,
    e2e_latency_p50_ms      DOUBLE,
    e2e_latency_p90_ms      DOUBLE,
    e2e_latency_p95_ms      DOUBLE,
    e2e_latency_p99_ms      DOUBLE,
    ttft_p50_ms             DOUBLE,
    ttft_p90_ms             DOUBLE,
    ttft_p95_ms             DOUBLE,
    ttft_p99_ms             DOUBLE,
    tpot_p50_ms             DOUBLE,
    tpot_p90_ms             DOUBLE,
    tpot_p95_ms             DOUBLE,
    tpot_p99_ms             DOUBLE,
    itl_p50_ms              DOUBLE,
    itl_p90_ms              DOUBLE,
    itl_p95_ms              DOUBLE,
    itl_p99_ms              DOUBLE,
    latency_ms              JSON,
    throughput_tokens_per_s DOUBLE,
    goodput                 DOUBLE,
    PRIMARY KEY (content_key, stage, arm, trial, probe)
);
COMMENT ON TABLE probes IS 'One probe of a rate search: a fixed load, its latencies and its verdict.';
COMMENT ON COLUMN probes.stage IS 'sweep, tuning or certification';
COMMENT ON COLUMN probes.arm IS 'what is certified when a stage measures several configurations';
COMMENT ON COLUMN probes.trial IS 'tuning trial; 0 is the engine''s default, which a sweep measures too';
COMMENT ON COLUMN probes.probe IS 'number of the probe, from 0';
COMMENT ON COLUMN probes.kind IS 'closed (one request at a time) or open (arrivals on a schedule)';
COMMENT ON COLUMN probes.rate_rps IS 'scheduled rate';
COMMENT ON COLUMN probes.achieved_rate_rps IS 'rate at which requests were sent';
COMMENT ON COLUMN probes.duration_s IS 'time under load';
COMMENT ON COLUMN probes.requests IS 'measured requests';
COMMENT ON COLUMN probes.errors IS 'failed requests; they count as missed objectives';
COMMENT ON COLUMN probes.verdict IS 'pass, fail, unresolved or invalid';
COMMENT ON COLUMN probes.reason IS 'why the verdict is what it is';
COMMENT ON COLUMN probes.beta IS 'slope of completions on arrivals; 1 is steady, above 1 the backlog grows';
COMMENT ON COLUMN probes.beta_low IS 'lower bound of beta';
COMMENT ON COLUMN probes.beta_high IS 'upper bound of beta';
COMMENT ON COLUMN probes.intercept_s IS 'intercept of that regression';
COMMENT ON COLUMN probes.correlation IS 'correlation of arrivals and completions';
COMMENT ON COLUMN probes.send_lag_p99_ms IS '99th percentile of how late requests were sent';
COMMENT ON COLUMN probes.e2e_latency_p50_ms IS '50th percentile of end-to-end latency from the scheduled send time';
COMMENT ON COLUMN probes.e2e_latency_p90_ms IS '90th percentile of end-to-end latency from the scheduled send time';
COMMENT ON COLUMN probes.e2e_latency_p95_ms IS '95th percentile of end-to-end latency from the scheduled send time';
COMMENT ON COLUMN probes.e2e_latency_p99_ms IS '99th percentile of end-to-end latency from the scheduled send time';
COMMENT ON COLUMN probes.ttft_p50_ms IS '50th percentile of time to first token';
COMMENT ON COLUMN probes.ttft_p90_ms IS '90th percentile of time to first token';
COMMENT ON COLUMN probes.ttft_p95_ms IS '95th percentile of time to first token';
COMMENT ON COLUMN probes.ttft_p99_ms IS '99th percentile of time to first token';
COMMENT ON COLUMN probes.tpot_p50_ms IS '50th percentile of time per output token';
COMMENT ON COLUMN probes.tpot_p90_ms IS '90th percentile of time per output token';
COMMENT ON COLUMN probes.tpot_p95_ms IS '95th percentile of time per output token';
COMMENT ON COLUMN probes.tpot_p99_ms IS '99th percentile of time per output token';
COMMENT ON COLUMN probes.itl_p50_ms IS '50th percentile of inter-token latency';
COMMENT ON COLUMN probes.itl_p90_ms IS '90th percentile of inter-token latency';
COMMENT ON COLUMN probes.itl_p95_ms IS '95th percentile of inter-token latency';
COMMENT ON COLUMN probes.itl_p99_ms IS '99th percentile of inter-token latency';
COMMENT ON COLUMN probes.latency_ms IS 'all recorded percentiles by label';
COMMENT ON COLUMN probes.throughput_tokens_per_s IS 'generated tokens per second';
COMMENT ON COLUMN probes.goodput IS 'share of requests that met every objective';

CREATE TABLE requests (
    model          VARCHAR NOT NULL,
    recipe         VARCHAR,
    slo            VARCHAR,
    content_key    VARCHAR NOT NULL,
    seed           UBIGINT,
    versions       JSON,
    accelerator    VARCHAR,
    run_id         VARCHAR,
    started_at     TIMESTAMPTZ,
    ended_at       TIMESTAMPTZ,
    stage          VARCHAR NOT NULL,
    arm            VARCHAR NOT NULL DEFAULT '',
    trial          INTEGER NOT NULL DEFAULT 0,
    probe          INTEGER NOT NULL,
    request        INTEGER NOT NULL,
    scheduled_s    DOUBLE,
    sent_s         DOUBLE,
    first_token_s  DOUBLE,
    finished_s     DOUBLE,
    input_tokens   INTEGER,
    output_tokens  INTEGER,
    ok             BOOLEAN,
    error          VARCHAR,
    PRIMARY KEY (content_key, stage, arm, trial, probe, request)
);
COMMENT ON TABLE requests IS 'One request of a probe; times in seconds since the probe began.';
COMMENT ON COLUMN requests.stage IS 'sweep, tuning or certification';
COMMENT ON COLUMN requests.arm IS 'what is certified when a stage measures several configurations';
COMMENT ON COLUMN requests.trial IS 'tuning trial';
COMMENT ON COLUMN requests.probe IS 'number of the probe';
COMMENT ON COLUMN requests.request IS 'number of the request in the probe, from 0';
COMMENT ON COLUMN requests.scheduled_s IS 'when it should have been sent';
COMMENT ON COLUMN requests.sent_s IS 'when it was sent';
COMMENT ON COLUMN requests.first_token_s IS 'when the first token arrived';
COMMENT ON COLUMN requests.finished_s IS 'when the last token arrived';
COMMENT ON COLUMN requests.input_tokens IS 'prompt length';
COMMENT ON COLUMN requests.output_tokens IS 'generated tokens';
COMMENT ON COLUMN requests.ok IS 'whether it succeeded';
COMMENT ON COLUMN requests.error IS 'why it failed';

CREATE TABLE tuning_trials (
    model          VARCHAR NOT NULL,
    recipe         VARCHAR,
    slo            VARCHAR,
    content_key    VARCHAR NOT NULL,
    seed           UBIGINT,
    versions       JSON,
    accelerator    VARCHAR,
    run_id         VARCHAR,
    started_at     TIMESTAMPTZ,
    ended_at       TIMESTAMPTZ,
    trial          INTEGER NOT NULL,
    study          VARCHAR,
    flags          JSON,
    status         VARCHAR NOT NULL,
    fitness        DOUBLE,
    rate_rps       DOUBLE,
    rate_per_gpu   DOUBLE,
    gpus           INTEGER,
    slo_penalty    DOUBLE,
    input_tokens   INTEGER,
    output_tokens  INTEGER,
    seconds        DOUBLE,
    reason         VARCHAR,
    is_default     BOOLEAN,
    is_best        BOOLEAN,
    artifact_key   VARCHAR,
    PRIMARY KEY (content_key, trial)
);
COMMENT ON TABLE tuning_trials IS 'One trial of a study: engine flags and the highest SLO-compliant rate with them.';
COMMENT ON COLUMN tuning_trials.trial IS 'number of the trial; 0 is the engine''s default';
COMMENT ON COLUMN tuning_trials.study IS 'name of the study';
COMMENT ON COLUMN tuning_trials.flags IS 'engine flags of the trial';
COMMENT ON COLUMN tuning_trials.status IS 'feasible, infeasible or failed';
COMMENT ON COLUMN tuning_trials.fitness IS 'objective of the study: rate per GPU, minus a penalty for a missed SLO';
COMMENT ON COLUMN tuning_trials.rate_rps IS 'highest SLO-compliant rate';
COMMENT ON COLUMN tuning_trials.rate_per_gpu IS 'rate_rps / gpus';
COMMENT ON COLUMN tuning_trials.gpus IS 'accelerators the server used';
COMMENT ON COLUMN tuning_trials.slo_penalty IS 'how far the SLO was missed; 0 if it was met';
COMMENT ON COLUMN tuning_trials.input_tokens IS 'prompt length of the workload';
COMMENT ON COLUMN tuning_trials.output_tokens IS 'answer length of the workload';
COMMENT ON COLUMN tuning_trials.seconds IS 'time the trial took';
COMMENT ON COLUMN tuning_trials.reason IS 'why the trial is infeasible or failed';
COMMENT ON COLUMN tuning_trials.is_default IS 'whether the flags are the engine''s default';
COMMENT ON COLUMN tuning_trials.is_best IS 'whether the study chose this trial';
COMMENT ON COLUMN tuning_trials.artifact_key IS 'artifact with all records';

CREATE TABLE deployments (
    model          VARCHAR NOT NULL,
    recipe         VARCHAR,
    slo            VARCHAR,
    content_key    VARCHAR NOT NULL,
    seed           UBIGINT,
    versions       JSON,
    accelerator    VARCHAR,
    run_id         VARCHAR,
    started_at     TIMESTAMPTZ,
    ended_at       TIMESTAMPTZ,
    status             VARCHAR NOT NULL,
    chosen_recipe      VARCHAR,
    certified_rate_rps DOUBLE,
    rate_per_gpu       DOUBLE,
    gpus               INTEGER,
    baseline_rate_rps  DOUBLE,
    gain               DOUBLE,
    confirmations      JSON,
    flags              JSON,
    bundle_path        VARCHAR,
    quality_verdict    VARCHAR,
    mean_recovery      DOUBLE,
    reason             VARCHAR,
    artifact_key       VARCHAR,
    PRIMARY KEY (content_key)
);
COMMENT ON TABLE deployments IS 'Certified deployment of a model for an SLO, or why there is none.';
COMMENT ON COLUMN deployments.status IS 'certified, or what stopped it';
COMMENT ON COLUMN deployments.chosen_recipe IS 'recipe that is deployed';
COMMENT ON COLUMN deployments.certified_rate_rps IS 'rate confirmed by a fresh measurement';
COMMENT ON COLUMN deployments.rate_per_gpu IS 'certified_rate_rps / gpus';
COMMENT ON COLUMN deployments.gpus IS 'accelerators the server uses';
COMMENT ON COLUMN deployments.baseline_rate_rps IS 'confirmed rate of the uncompressed model with default flags';
COMMENT ON COLUMN deployments.gain IS 'rate per GPU as a multiple of the baseline''s';
COMMENT ON COLUMN deployments.confirmations IS 'verdicts of the confirming probes';
COMMENT ON COLUMN deployments.flags IS 'engine flags that are deployed';
COMMENT ON COLUMN deployments.bundle_path IS 'folder with the deploy bundle and the report';
COMMENT ON COLUMN deployments.quality_verdict IS 'verdict of the quality gate';
COMMENT ON COLUMN deployments.mean_recovery IS 'mean recovery of the deployed checkpoint';
COMMENT ON COLUMN deployments.reason IS 'why this recipe, or why none';
COMMENT ON COLUMN deployments.artifact_key IS 'artifact with the bundle';

-- Every materialization, cache hits too: they say which content key a partition has now, also after
-- a change was taken back and an older key became current again.
CREATE TABLE materializations (
    asset           VARCHAR NOT NULL,
    partition       VARCHAR NOT NULL,
    content_key     VARCHAR NOT NULL,
    model           VARCHAR,
    recipe          VARCHAR,
    slo             VARCHAR,
    cached          BOOLEAN NOT NULL DEFAULT false,
    run_id          VARCHAR,
    materialized_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (asset, partition, content_key, materialized_at)
);
COMMENT ON TABLE materializations IS 'Every materialization of an asset partition, cache hits included.';
COMMENT ON COLUMN materializations.asset IS 'asset name';
COMMENT ON COLUMN materializations.partition IS 'partition key';
COMMENT ON COLUMN materializations.cached IS 'whether the artifact store had the result already';
COMMENT ON COLUMN materializations.materialized_at IS 'when the materialization was recorded';

-- What an accelerator costs. An appended row counts before a default one.
CREATE TABLE prices (
    accelerator  VARCHAR PRIMARY KEY,
    usd_per_hour DOUBLE NOT NULL,
    source       VARCHAR,
    is_default   BOOLEAN NOT NULL DEFAULT false
);
COMMENT ON TABLE prices IS 'Price per hour of one accelerator; the longest name found in a row''s accelerator applies.';
COMMENT ON COLUMN prices.accelerator IS 'part of the accelerator''s name, in any case';
COMMENT ON COLUMN prices.usd_per_hour IS 'US dollars per hour for one accelerator';
COMMENT ON COLUMN prices.source IS 'where the price comes from';
COMMENT ON COLUMN prices.is_default IS 'whether the price is an assumption that comes with OptiKIT';
INSERT INTO prices VALUES
    ('cpu', 0.40, 'assumed: 8 vCPU on demand', true),
    ('T4', 0.35, 'assumed: on-demand list price, 2025', true),
    ('L4', 0.80, 'assumed: on-demand list price, 2025', true),
    ('L40S', 1.80, 'assumed: on-demand list price, 2025', true),
    ('A10G', 1.00, 'assumed: on-demand list price, 2025', true),
    ('A100', 2.50, 'assumed: on-demand list price, 2025', true),
    ('H100', 4.00, 'assumed: on-demand list price, 2025', true),
    ('H200', 5.00, 'assumed: on-demand list price, 2025', true),
    ('B200', 7.00, 'assumed: on-demand list price, 2025', true);
