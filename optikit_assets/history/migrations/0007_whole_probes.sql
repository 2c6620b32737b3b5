-- Everything a verdict rests on, the phase and the token times of every request, and benches of
-- servers that run already.

ALTER TABLE probes ADD COLUMN completion_rate_rps DOUBLE;
ALTER TABLE probes ADD COLUMN sent BIGINT;
ALTER TABLE probes ADD COLUMN met BOOLEAN;
ALTER TABLE probes ADD COLUMN backlog_slope_rps DOUBLE;
ALTER TABLE probes ADD COLUMN backlog_grows BOOLEAN;
ALTER TABLE probes ADD COLUMN latency_ci_ms JSON;
ALTER TABLE probes ADD COLUMN miss_share JSON;
ALTER TABLE probes ADD COLUMN effective_requests JSON;
ALTER TABLE probes ADD COLUMN error_examples JSON;
ALTER TABLE probes ADD COLUMN client_cores DOUBLE;
COMMENT ON COLUMN probes.completion_rate_rps IS 'rate at which measured requests were completed';
COMMENT ON COLUMN probes.sent IS 'all requests, warm-up and tail included';
COMMENT ON COLUMN probes.met IS 'whether every objective was met as observed, in steady state and with hardly a failure, whatever the confidence';
COMMENT ON COLUMN probes.backlog_slope_rps IS 'growth of the number of requests in the system, per second; null in a closed loop';
COMMENT ON COLUMN probes.backlog_grows IS 'whether completions fall behind arrivals, with confidence';
COMMENT ON COLUMN probes.latency_ci_ms IS 'confidence interval of the percentile of every objective, by label: [low, high]; high is null if nothing bounds it';
COMMENT ON COLUMN probes.miss_share IS 'share of requests, or of gaps between tokens, that missed an objective, by label';
COMMENT ON COLUMN probes.effective_requests IS 'how many independent requests would be as sure of that share, by label';
COMMENT ON COLUMN probes.client_cores IS 'mean number of cores that the event loops of the load client took';
COMMENT ON COLUMN probes.error_examples IS 'list of the first different error messages';

ALTER TABLE requests ADD COLUMN phase VARCHAR;
ALTER TABLE requests ADD COLUMN itl_s FLOAT[];
COMMENT ON COLUMN requests.phase IS 'ladder (of a rung), closed (one request after the other), warmup, measured (what the verdict rests on) or tail (sent, not needed)';
COMMENT ON COLUMN requests.itl_s IS 'inter-token latencies: times between successive token events, in order';
COMMENT ON COLUMN requests.probe IS 'number of the probe; of a rung of the ladder its clients, negative';

CREATE TABLE benches (
    model              VARCHAR NOT NULL,
    recipe             VARCHAR,
    slo                VARCHAR,
    content_key        VARCHAR NOT NULL,
    seed               UBIGINT,
    versions           JSON,
    accelerator        VARCHAR,
    run_id             VARCHAR,
    started_at         TIMESTAMPTZ,
    ended_at           TIMESTAMPTZ,
    base_url           VARCHAR NOT NULL,
    status             VARCHAR NOT NULL,
    certified_rate_rps DOUBLE,
    rate_low_rps       DOUBLE,
    rate_high_rps      DOUBLE,
    input_tokens       INTEGER,
    output_tokens      INTEGER,
    load_seconds       DOUBLE,
    probes             INTEGER,
    reason             VARCHAR,
    closest            VARCHAR,
    folder             VARCHAR,
    PRIMARY KEY (content_key)
);
COMMENT ON TABLE benches IS 'One optikit bench: highest SLO-compliant rate of a server that ran already.';
COMMENT ON COLUMN benches.model IS 'model name at the endpoint';
COMMENT ON COLUMN benches.content_key IS 'key of the bench; its probes, rungs and requests have it too';
COMMENT ON COLUMN benches.run_id IS 'id of the bench, the name of its folder';
COMMENT ON COLUMN benches.base_url IS 'the endpoint';
COMMENT ON COLUMN benches.status IS 'feasible, infeasible, never_steady, unresolved, or failed if it broke off';
COMMENT ON COLUMN benches.certified_rate_rps IS 'highest rate that met every objective in steady state';
COMMENT ON COLUMN benches.rate_low_rps IS 'lower bound of the rate';
COMMENT ON COLUMN benches.rate_high_rps IS 'upper bound of the rate';
COMMENT ON COLUMN benches.input_tokens IS 'prompt length of the workload';
COMMENT ON COLUMN benches.output_tokens IS 'answer length of the workload';
COMMENT ON COLUMN benches.load_seconds IS 'time under load, all probes together';
COMMENT ON COLUMN benches.probes IS 'number of probes';
COMMENT ON COLUMN benches.reason IS 'why the status is what it is';
COMMENT ON COLUMN benches.closest IS 'what came closest when the SLO cannot be met';
COMMENT ON COLUMN benches.folder IS 'folder with the result, the requests and the figures';

COMMENT ON COLUMN probes.stage IS 'sweep, tuning, certification or bench';
COMMENT ON COLUMN ladder_rungs.stage IS 'sweep, tuning, certification or bench';
COMMENT ON COLUMN requests.stage IS 'sweep, tuning, certification or bench';
COMMENT ON COLUMN probes.run_id IS 'Dagster run, or id of the bench';
COMMENT ON COLUMN ladder_rungs.run_id IS 'Dagster run, or id of the bench';
COMMENT ON COLUMN requests.run_id IS 'Dagster run, or id of the bench';
COMMENT ON COLUMN probes.content_key IS 'content key of the stage, or key of the bench; KEY-failed-RUN if the benchmark broke off after these probes';
COMMENT ON COLUMN ladder_rungs.content_key IS 'as in probes';
COMMENT ON COLUMN requests.content_key IS 'as in probes';
