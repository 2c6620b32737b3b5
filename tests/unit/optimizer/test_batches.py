"""Batches hold rows of one length, so that nothing is padded and nothing cut."""

import random

from optikit_assets.optimizer.backends.llmcompressor import batches_of_equal_length
from optikit_assets.optimizer.backends.models import tokenize
from optikit_assets.optimizer.calibration import CalibrationRow


def test_every_row_is_in_exactly_one_batch_of_its_length() -> None:
    rng = random.Random(3)
    ids = [[0] * rng.randint(1, 40) for _ in range(300)]
    batches = batches_of_equal_length(ids, 100)
    assert sorted(index for batch in batches for index in batch) == list(range(300))
    for batch in batches:
        (length,) = {len(ids[index]) for index in batch}
        assert length * len(batch) <= 100


def test_long_rows_go_one_by_one_and_first() -> None:
    ids = [[0] * 10, [0] * 500, [0] * 500, [0] * 10]
    assert batches_of_equal_length(ids, 100) == [[1], [2], [0, 3]]


def test_one_token_per_batch_means_one_row_per_batch() -> None:
    assert batches_of_equal_length([[0, 0]] * 4, 1) == [[0], [1], [2], [3]]


class CharacterTokenizer:
    """Prepends token 1 as special token; keeps the order of what it is given."""

    def __call__(self, texts, *, add_special_tokens, truncation, max_length, padding):
        assert padding is False
        assert truncation is (max_length is not None)
        ids = [[1] * add_special_tokens + [ord(c) for c in text] for text in texts]
        return {"input_ids": [row[:max_length] for row in ids]}


def test_templated_rows_get_no_second_set_of_special_tokens() -> None:
    rows = [CalibrationRow("ab"), CalibrationRow("<s>c", templated=True), CalibrationRow("d")]
    ids = tokenize(CharacterTokenizer(), rows, None)
    assert ids == [[1, 97, 98], [60, 115, 62, 99], [1, 100]]
    assert tokenize(CharacterTokenizer(), rows, 2) == [[1, 97], [60, 115], [1, 100]]
