-- Which bundle serves which traffic, since when and why: a ledger that is only added to.

CREATE TABLE promotions (
    promotion     VARCHAR PRIMARY KEY,
    channel       VARCHAR NOT NULL,
    family        VARCHAR NOT NULL,
    slo           VARCHAR NOT NULL,
    number        INTEGER NOT NULL,
    decision      VARCHAR NOT NULL,
    model         VARCHAR NOT NULL,
    bundle_key    VARCHAR NOT NULL,
    bundle_digest VARCHAR,
    supersedes    VARCHAR,
    restores      VARCHAR,
    gates         JSON NOT NULL,
    target_rps    DOUBLE,
    reason        VARCHAR,
    decided_by    VARCHAR NOT NULL,
    decided_at    TIMESTAMPTZ NOT NULL
);
COMMENT ON TABLE promotions IS 'What was put into a channel, or refused: one row per decision, never changed.';
COMMENT ON COLUMN promotions.promotion IS 'id of the decision';
COMMENT ON COLUMN promotions.channel IS 'traffic that it is for, e.g. production';
COMMENT ON COLUMN promotions.family IS 'model without its version: what one version takes over from another';
COMMENT ON COLUMN promotions.number IS 'of the decision within its channel, family and SLO, from 1';
COMMENT ON COLUMN promotions.decision IS 'promoted (all gates passed), forced (some did not), rolled_back, or refused, which changes nothing';
COMMENT ON COLUMN promotions.bundle_key IS 'content key of the bundle';
COMMENT ON COLUMN promotions.bundle_digest IS 'digest over its files when it was decided';
COMMENT ON COLUMN promotions.supersedes IS 'decision that was current before';
COMMENT ON COLUMN promotions.restores IS 'of a rollback: the decision that it goes back to';
COMMENT ON COLUMN promotions.gates IS 'what each gate found: list of {gate, verdict, text}';
COMMENT ON COLUMN promotions.target_rps IS 'traffic that costs were compared at; null: the certified rate of the candidate';
COMMENT ON COLUMN promotions.reason IS 'why it was forced or rolled back, in the words of who did';
COMMENT ON COLUMN promotions.decided_by IS 'who decided';
COMMENT ON COLUMN promotions.decided_at IS 'when it was decided';

CREATE VIEW current_promotions AS
SELECT * FROM promotions
WHERE decision <> 'refused'
QUALIFY row_number() OVER (PARTITION BY channel, family, slo ORDER BY number DESC) = 1
ORDER BY channel, family, slo;
COMMENT ON VIEW current_promotions IS 'What is deployed now: the last decision of each channel, model family and SLO that was not refused.';
