-- What was certified, its answers too.

ALTER TABLE recertifications ADD COLUMN quality_verdict VARCHAR;
ALTER TABLE recertifications ADD COLUMN mean_recovery DOUBLE;
ALTER TABLE recertifications ADD COLUMN mean_recovery_low DOUBLE;
ALTER TABLE recertifications ADD COLUMN mean_recovery_high DOUBLE;
COMMENT ON COLUMN recertifications.quality_verdict IS 'pass, fail or inconclusive, by the margins of the suite; null where its answers were not asked for';
COMMENT ON COLUMN recertifications.mean_recovery IS 'score of its answers over the score of those of then, over the tasks, with its interval';
