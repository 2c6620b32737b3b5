"""Where things are: the one reader of ``OPTIKIT_*`` environment variables."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from optikit_assets.errors import SpecError
from optikit_assets.locations import REPOSITORY, default_home

__all__ = ["REPOSITORY", "Settings", "configure", "settings"]


class Settings(BaseSettings):
    """Settings of one process; every folder below `home` is derived from it."""

    model_config = SettingsConfigDict(env_prefix="OPTIKIT_", frozen=True)

    home: Path = Field(default_factory=default_home, description="All state lives here.")
    recipes: Path = Field(default=REPOSITORY / "recipes", description="Spec files.")
    root: Path = Field(
        default=REPOSITORY, description="What relative paths in model specs are relative to."
    )
    model_quiet_s: float = Field(
        default=60,
        ge=0,
        description="Seconds without a change after which a new model folder counts as complete.",
    )
    unpack_ratio: float = Field(
        default=100,
        ge=1,
        description="How many times its own size a packed layer of an image may take on disk, if "
        "that is more than 1 GiB; a larger one is refused.",
    )
    publisher: str = Field(
        default="folder", description="Where certified bundles are published: its registered name."
    )
    automation: Literal["stopped", "models", "running"] = Field(
        default="models",
        description="What is requested until sensors are switched: nothing, what new model "
        "versions need, or what edits made stale as well.",
    )
    environments_home: Path | None = Field(
        default=None, description="Use the stage environments of another OPTIKIT_HOME."
    )
    store: str = Field(
        default="",
        description="URL of the artifact store; unset: the folder artifacts/ below `home`.",
    )
    executor: str = Field(
        default="local", description="Where stages run: an own executor or one that is installed."
    )
    ray_address: str | None = Field(
        default=None,
        pattern=r"^[^\s:/]+:\d{1,5}$",
        description="HOST:PORT of the head of the Ray cluster, for the executor `ray`.",
    )
    ray_scale_up_s: float = Field(
        default=0,
        ge=0,
        description="Longest wait for a node of a pool that has none, where an autoscaler adds "
        "nodes; 0: there is none, and such a pool is refused at once.",
    )

    dagster_url: str | None = Field(
        default=None,
        description="Address of a running Dagster, where `optikit submit` queues jobs.",
    )
    reports_port: int = Field(
        default=3070,
        ge=1,
        le=65535,
        description="Port of `optikit reports` on loopback, which the links of assets name.",
    )

    metrics: str | None = Field(
        default=None,
        pattern=r"^([^\s:]+:)?\d{1,5}$",
        description="PORT on loopback, or HOST:PORT, where `optikit metrics` is scraped by "
        "Prometheus; unset: nowhere.",
    )

    @staticmethod
    def own_store(home: Path) -> str:
        """Return the URL of the artifact store that a home has by default, for itself."""
        return (home / "artifacts").as_uri()

    @property
    def reports(self) -> str:
        """Address that `optikit reports` serves at."""
        return f"http://127.0.0.1:{self.reports_port}"

    @property
    def envs_home(self) -> Path:
        """The OPTIKIT_HOME whose stage environments are used."""
        return self.environments_home or self.home

    @property
    def history(self) -> Path:
        """DuckDB trial history with its spool and published copy."""
        return self.home / "history"

    @property
    def benches(self) -> Path:
        """Records of `optikit bench`, one folder each."""
        return self.home / "bench"

    @property
    def studies(self) -> Path:
        """Optuna journals, one file per study."""
        return self.home / "studies"

    @property
    def digests(self) -> Path:
        """What is remembered of the digests of files."""
        return self.home / "cache" / "file-digests.json"

    @property
    def logs(self) -> Path:
        """Logs of workers and of the driver."""
        return self.home / "logs"


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Return this process's settings, with absolute paths.

    Raises
    ------
    SpecError
        If a variable has a value that it cannot have.
    """
    try:
        read = Settings()  # pyright: ignore[reportCallIssue]
    except ValidationError as error:
        wrong = [
            f"OPTIKIT_{e['loc'][0]}".upper() + f"={e['input']}: {e['msg']}" for e in error.errors()
        ]
        raise SpecError("environment variables", wrong) from error
    home = read.home.expanduser().absolute()
    return read.model_copy(
        update={
            "home": home,
            "store": read.store or Settings.own_store(home),
            "recipes": read.recipes.expanduser().absolute(),
            "root": read.root.expanduser().absolute(),
            "environments_home": read.environments_home
            and read.environments_home.expanduser().absolute(),
        }
    )


def configure(**values: Path | str) -> None:
    """Set settings, for this process and those that it starts."""
    for name, value in values.items():
        os.environ[f"OPTIKIT_{name.upper()}"] = str(value)
    settings.cache_clear()
