"""Which engines there are, and that the default one changes no digest."""

import pytest
from pydantic import ValidationError

from optikit_assets.engines import Engine, engine_names, engine_variables, get_engine
from optikit_assets.engines.base import register_engine
from optikit_assets.errors import UnknownNameError
from optikit_assets.specs import EngineSpec, SearchSpaceSpec, digest, plugins
from optikit_assets.specs.search_space import Scalar


def test_the_engines_that_specs_may_name_are_those_registered():
    assert engine_names() == tuple(sorted(plugins.BUILTIN_ENGINES))
    assert plugins.DEFAULT_ENGINE in plugins.BUILTIN_ENGINES


def test_an_unknown_engine_is_refused_with_the_known_ones():
    with pytest.raises(UnknownNameError, match=plugins.DEFAULT_ENGINE):
        get_engine("enginex")
    with pytest.raises(ValidationError, match="unknown engine 'enginex'; known: "):
        EngineSpec(name="enginex")


def test_a_name_is_registered_once():
    def another() -> Engine:
        raise NotImplementedError

    with pytest.raises(ValueError, match="registered already"):
        register_engine(plugins.DEFAULT_ENGINE)(another)


def test_naming_the_default_engine_changes_no_digest():
    flags: dict[str, Scalar] = {"max_num_seqs": 4}
    assert EngineSpec(name=plugins.DEFAULT_ENGINE, flags=flags).digest() == digest(
        {"dtype": "auto", "flags": flags}
    )
    space = SearchSpaceSpec.model_validate(
        {"name": "s", "trials": 1, "startup_trials": 1, "parameters": {"f": {"choices": [1, 2]}}}
    )
    content = space.model_dump(
        mode="json", exclude={"description", "engine", "constraints", "economy"}
    )
    del content["parameters"]["f"]["when"]
    assert space.digest() == digest(content)


def test_variables_of_every_engine_count_for_the_runtime():
    assert set(get_engine(plugins.DEFAULT_ENGINE).variables.effective) <= set(
        engine_variables().effective
    )
