import pytest

from optikit_assets.engines import Hardware
from optikit_assets.specs import SearchSpaceSpec

GIB = 1024**3


@pytest.fixture
def cpu():
    return Hardware("cpu", "some processor", 1, 16 * GIB, cores=2)


@pytest.fixture
def four_gpus():
    return Hardware("cuda", "NVIDIA L4", 4, 24 * GIB, devices=("0", "1", "2", "3"))


@pytest.fixture
def space_of():
    def make(parameters, trials=12, startup_trials=4, **more):
        return SearchSpaceSpec.model_validate(
            {
                "name": "s",
                "trials": trials,
                "startup_trials": startup_trials,
                "parameters": parameters,
                **more,
            }
        )

    return make
