"""``README.md`` of a bundle: the commands that serve it, and what each file is."""

from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined

from optikit_assets.engines import Engine, Format
from optikit_assets.schemas import Deployment, ServingPlan


def readme(
    deployment: Deployment,
    engine: Engine,
    plan: ServingPlan | None,
    formats: Mapping[str, Format],
    model_at: str | None = None,
) -> str:
    """Return the text.

    Parameters
    ----------
    plan
        None where there is no container of the engine.
    formats
        File below ``deploy/`` -> what it is for.
    model_at
        Folder in the engine's file, where that is none of this machine.
    """
    # Plain text for people: nothing of it is HTML.
    templates = Environment(
        loader=PackageLoader("optikit_assets.delivery"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return templates.get_template("README.md.j2").render(
        d=deployment, engine=engine, plan=plan, formats=formats, model_at=model_at
    )
