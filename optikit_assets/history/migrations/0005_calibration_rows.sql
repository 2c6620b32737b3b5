-- Which calibration rows a trial saw: by name, where rows_digest only says whether they are the same.

ALTER TABLE quantization_trials ADD COLUMN row_numbers BIGINT[];
COMMENT ON COLUMN quantization_trials.row_numbers IS 'places of the calibration rows in their data, in the order the trial saw them: line of a file, from 1, or row of a table, from 0';
