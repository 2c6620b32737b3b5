-- The closed loops that a rate search begins with.
CREATE TABLE ladder_rungs (
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
    clients        INTEGER NOT NULL,
    throughput_rps DOUBLE,
    latency_s      DOUBLE,
    met            BOOLEAN,
    PRIMARY KEY (content_key, stage, arm, trial, clients)
);
COMMENT ON TABLE ladder_rungs IS 'One level of concurrency before the probes of a rate search; by Little''s law throughput_rps * latency_s is close to clients.';
COMMENT ON COLUMN ladder_rungs.stage IS 'sweep, tuning or certification';
COMMENT ON COLUMN ladder_rungs.arm IS 'what is certified when a stage measures several configurations';
COMMENT ON COLUMN ladder_rungs.trial IS 'tuning trial; 0 is the engine''s default, which a sweep measures too';
COMMENT ON COLUMN ladder_rungs.clients IS 'clients that each send one request after the other';
COMMENT ON COLUMN ladder_rungs.throughput_rps IS 'finished requests per second';
COMMENT ON COLUMN ladder_rungs.latency_s IS 'mean end-to-end latency';
COMMENT ON COLUMN ladder_rungs.met IS 'whether every objective was met as observed';
