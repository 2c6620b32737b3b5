-- What each trial cost, what a dropped one is estimated at, and what makes studies comparable.

ALTER TABLE tuning_trials ADD COLUMN estimate_rps DOUBLE;
ALTER TABLE tuning_trials ADD COLUMN retuned BOOLEAN;
ALTER TABLE tuning_trials ADD COLUMN boot_seconds DOUBLE;
ALTER TABLE tuning_trials ADD COLUMN load_seconds DOUBLE;
ALTER TABLE tuning_trials ADD COLUMN graphs_loaded INTEGER;
ALTER TABLE tuning_trials ADD COLUMN graphs_compiled INTEGER;
ALTER TABLE tuning_trials ADD COLUMN engine VARCHAR;
ALTER TABLE tuning_trials ADD COLUMN architecture VARCHAR;
ALTER TABLE tuning_trials ADD COLUMN objectives VARCHAR;
COMMENT ON COLUMN tuning_trials.status IS 'feasible, infeasible, dropped (certain not to do better than the best so far) or failed';
COMMENT ON COLUMN tuning_trials.estimate_rps IS 'of a dropped trial: rate at which the SLO is expected to be missed';
COMMENT ON COLUMN tuning_trials.retuned IS 'whether it was explored on a server that was started with other flags: such a trial never ships';
COMMENT ON COLUMN tuning_trials.boot_seconds IS 'until the server of the trial answered, or gave up; null if none was started';
COMMENT ON COLUMN tuning_trials.load_seconds IS 'seconds under load';
COMMENT ON COLUMN tuning_trials.graphs_loaded IS 'compiled graphs that its server took from the cache of earlier ones; null if its log does not say';
COMMENT ON COLUMN tuning_trials.graphs_compiled IS 'graphs that its server had to compile; null if its log does not say';
COMMENT ON COLUMN tuning_trials.engine IS 'name of the engine';
COMMENT ON COLUMN tuning_trials.architecture IS 'class of the model, as its config.json names it';
COMMENT ON COLUMN tuning_trials.objectives IS 'objectives of the SLO, e.g. ttft_p50, tpot_p50';
