"""Files of request timelines."""

from dataclasses import replace
from pathlib import Path

from optikit_assets.benchmarker import RequestRecord, append_requests, read_requests

RECORD = RequestRecord(
    probe=0,
    index=0,
    phase="measured",
    scheduled_s=0.5,
    sent_s=0.501,
    first_token_s=0.6,
    finished_s=None,
    input_tokens=64,
    output_tokens=-1,
    itl_s=(0.02, 0.03),
    ok=False,
    error="HTTP 500",
)


def test_what_two_probes_appended_is_read_back(tmp_path: Path):
    file = tmp_path / "deep" / "requests.jsonl.gz"
    append_requests(file, [RECORD])
    append_requests(file, [replace(RECORD, probe=1, ok=True, error=None)])
    assert list(read_requests(file)) == [RECORD, replace(RECORD, probe=1, ok=True, error=None)]


def test_a_file_whose_writer_was_killed_is_read_as_far_as_it_goes(tmp_path: Path):
    file = tmp_path / "requests.jsonl.gz"
    first = [replace(RECORD, index=i) for i in range(200)]
    append_requests(file, first)
    append_requests(file, [replace(RECORD, probe=1, index=i) for i in range(200)])
    file.write_bytes(file.read_bytes()[:-20])
    read = list(read_requests(file))
    assert read[:200] == first
    assert len(read) < 400
