"""Whether re-certification tells an engine that is the same from one that became slower.

``python -m benchmarks.recertification [--times 5] [--slower 0.3] [--paired] [--write]``, after
`make demo` and in its state folder, with nothing else running. By turns it asks `optikit recertify`
about the demo's bundle on the engine that is installed, and on a copy of its environment in which
every step of vLLM takes longer by the share ``--slower``. Both are held against the record of the
certification, or with ``--paired`` against the installed engine, served in turn. The machine time
of each is set beside that of the search which it saves.

The copy is of links, below the state folder, and is removed at the end; the slowing is a plugin in
it, of the kind that vLLM loads into all its processes by itself. Exits with 1 unless every answer
was right: ``holds`` on the same engine, ``regressed`` on the slower one. ``--write`` puts the table
into ``docs/deploy.md``.

An answer takes a quarter of an hour, so each is kept below the state folder as it comes, and the
same command goes on from those of the same bundle, form, share, engine and code that measures;
``--anew`` forgets them.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.tables import markdown, write_section
from optikit_assets.environments.layout import environment_path, read_stamp, write_stamp
from optikit_assets.errors import OptikitError
from optikit_assets.headless.bundles import newest_bundle, resolve_model
from optikit_assets.history import connect
from optikit_assets.processes import OwnedProcess
from optikit_assets.schemas import RecertifiedDeployment
from optikit_assets.settings import REPOSITORY, settings

MODEL, SLO = "demo-llama", "demo"
_LIMIT_S = 1800.0
_GRACE_S = 60.0
# The code that an answer depends on.
_MEASURES = (
    *("benchmarker/**/*.py", "deployment/**/*.py", "engines/**/*.py", "tuner/**/*.py"),
    *("workers/**/*.py", "headless/recertification.py"),
)
_PLUGIN = "slower_steps"
_PLUGIN_CODE = '''"""Has every step of the engine take longer by a share of what it took."""

import functools
import time

SHARE = {share!r}


def slowed(step):
    @functools.wraps(step)
    def stepping(*arguments, **named):
        began = time.perf_counter()
        result = step(*arguments, **named)
        time.sleep(SHARE * (time.perf_counter() - began))
        return result

    return stepping


def register():
    from vllm.v1.engine.core import EngineCore

    for name in ("step", "step_with_batch_queue"):
        step = getattr(EngineCore, name)
        # A process may be asked to load its plugins more than once.
        if not hasattr(step, "__wrapped__"):
            setattr(EngineCore, name, slowed(step))
'''


@dataclass(frozen=True)
class Kept:
    """Answers to one question, in the order in which they came.

    Attributes
    ----------
    file
        A line for each answer.
    question
        What they have in common; lines of another one are passed over.
    """

    file: Path
    question: str

    def answers(self) -> list["Asked"]:
        """Return those that are there."""
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        kept = [json.loads(line) for line in lines]
        return [
            Asked(it["slower"], RecertifiedDeployment.model_validate(it["found"]), it["seconds"])
            for it in kept
            if it["question"] == self.question
        ]

    def add(self, answer: "Asked") -> None:
        """Keep one more."""
        found = answer.found.model_dump(mode="json")
        line = {"slower": answer.slower, "seconds": answer.seconds, "found": found}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"question": self.question, **line}) + "\n")


@dataclass(frozen=True)
class Asked:
    """One answer, and what it took."""

    slower: float
    found: RecertifiedDeployment
    seconds: float

    @property
    def is_right(self) -> bool:
        """Whether it says of the same engine that it holds, of a slower one that it does not."""
        return self.found.found.verdict == ("regressed" if self.slower else "holds")

    @property
    def row(self) -> dict[str, str]:
        """Return it as a row of the table."""
        said = self.found.found
        ratio = said.ratio
        return {
            "engine": f"steps take {self.slower:.0%} longer" if self.slower else "the same",
            "verdict": said.verdict,
            "ratio": "–"
            if ratio is None
            else f"{ratio.estimate:.2f} ({ratio.low:.2f} to {ratio.high:.2f})",
            "vouched for (requests/s)": "–" if said.held_rps is None else f"{said.held_rps:.1f}",
            "rounds": str(said.rounds),
            "server starts": str(said.server_starts),
            "load (s)": f"{said.load_seconds:.0f}",
            "whole command (s)": f"{self.seconds:.0f}",
        }


@contextlib.contextmanager
def slower_engine(share: float) -> Iterator[Path]:
    """Give an OPTIKIT_HOME of environments whose engine takes longer by `share` for every step."""
    home = settings().home / "slower-engine"
    if home.exists():
        raise OptikitError(f"{home} is of a run that did not end: remove it")
    source, target = (environment_path(place, "serve") for place in (settings().envs_home, home))
    stamp = read_stamp(settings().envs_home, "serve")
    if stamp is None:
        raise OptikitError(f"{source} is not complete: make setup")
    try:
        shutil.copytree(source, target, symlinks=True, copy_function=os.link)
        write_stamp(home, "serve", replace(stamp, location=str(target.absolute())))
        packages = next(target.glob("lib/python3*/site-packages"))
        (packages / f"{_PLUGIN}.py").write_text(_PLUGIN_CODE.format(share=share), encoding="utf-8")
        known = packages / f"{_PLUGIN}-1.0.dist-info"
        known.mkdir()
        (known / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {_PLUGIN}\nVersion: 1.0\n", encoding="utf-8"
        )
        (known / "entry_points.txt").write_text(
            f"[vllm.general_plugins]\n{_PLUGIN} = {_PLUGIN}:register\n", encoding="utf-8"
        )
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def ask(slower: float, environments: Path, certified_on: Path | None) -> Asked:
    """Run `optikit recertify` on the engine in these environments."""
    out = settings().home / "recertified.json"
    out.unlink(missing_ok=True)
    pair = [] if certified_on is None else ["--certified-on", str(certified_on)]
    command = ["recertify", "--model", MODEL, "--slo", SLO, *pair, "--json", str(out)]
    began = time.monotonic()
    with OwnedProcess(
        [sys.executable, "-c", "from optikit_assets.cli import main; main()", *command],
        log_file=settings().home / "logs" / "recertifications.log",
        env={
            **os.environ,
            "OPTIKIT_HOME": str(settings().home),
            "OPTIKIT_ENVIRONMENTS_HOME": str(environments),
        },
        cwd=REPOSITORY,
        name="optikit recertify",
        grace_s=_GRACE_S,
    ) as running:
        ended = running.wait(_LIMIT_S)
        seconds = time.monotonic() - began
        # It says 1 where the certificate does not stand, and there is an answer all the same.
        if ended not in (0, 1) or not out.exists():
            raise OptikitError(f"it ended with {ended} after {seconds:.0f} s: {running.log_tail()}")
    content = json.loads(out.read_text(encoding="utf-8"))
    return Asked(slower, RecertifiedDeployment.model_validate(content), seconds)


def question(model: str, slower: float, paired: bool) -> str:
    """Return a digest of what is asked, on which engine and by which code."""
    stamp = read_stamp(settings().envs_home, "serve")
    asked = (newest_bundle(model, SLO)[0].key, slower, paired, stamp and stamp.digest)
    made = hashlib.sha256(repr(asked).encode())
    for part in _MEASURES:
        for file in sorted((REPOSITORY / "optikit_assets").glob(part)):
            made.update(file.read_bytes())
    return made.hexdigest()


def search_seconds(model: str) -> dict[str, float]:
    """Return the machine time of what found the deployment under the SLO, by asset."""
    with connect() as connection:
        found = connection.execute(
            "SELECT asset, sum(cards * epoch(held_to - held_from)) FROM leases "
            "WHERE asset IN ('benchmark_sweep', 'tuned_config', 'deployable_config') "
            "AND split_part(partition, '|', 1) = ? "
            "AND regexp_matches(split_part(partition, '|', 2), ?) GROUP BY ALL ORDER BY ALL",
            [model, f"(^|@){SLO}(@|$)"],
        )
        return dict(found.fetchall())


def account(asked: Sequence[Asked], searched: dict[str, float]) -> str:
    """Return the table and what stands below it."""
    certified = asked[0].found
    whole = sum(searched.values())
    mean = sum(one.seconds for one in asked) / len(asked)
    parts = ", ".join(f"{asset} {seconds:.0f}" for asset, seconds in searched.items())
    right = sum(one.is_right for one in asked)
    version = next((v for name, v in certified.versions.items() if name.startswith("vllm")), "–")
    return (
        f"{markdown([one.row for one in asked])}\n\n"
        f"{right} of {len(asked)} as they should be. Certified at "
        f"{certified.certified_rate_rps:.1f} requests/s with {certified.recipe}, vLLM "
        f"{version}, on {certified.accelerator}. A re-certification "
        f"took {mean:.0f} s on average, the search that it saves {whole:.0f} s of the machine "
        f"({parts}): a share of {mean / whole:.2f}."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask by turns, print and keep; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recertification",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--times", type=int, default=5, help="so often on each engine")
    parser.add_argument("--slower", type=float, default=0.3, help="a share: 0.3 is 30 %% longer")
    parser.add_argument("--paired", action="store_true", help="in turn with the installed engine")
    parser.add_argument("--write", action="store_true", help="put it into docs/deploy.md")
    parser.add_argument("--anew", action="store_true", help="forget the answers that are kept")
    chosen = parser.parse_args(arguments)
    if chosen.times < 1 or chosen.slower <= 0:
        parser.error("--times is at least 1, and --slower above 0")
    # Ended from outside, the contexts below still end what they started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    installed = settings().envs_home
    certified_on = installed if chosen.paired else None
    model = resolve_model(MODEL)
    searched = search_seconds(model)
    kept = Kept(
        settings().home / "recertifications.jsonl", question(model, chosen.slower, chosen.paired)
    )
    if chosen.anew:
        kept.file.unlink(missing_ok=True)
    of_then = kept.answers()
    asked: list[Asked] = []
    with slower_engine(chosen.slower) as slowed:
        for number in range(chosen.times):
            for slower, environments in ((0.0, installed), (chosen.slower, slowed)):
                same = [it for it in of_then if it.slower == slower]
                if number < len(same):
                    asked.append(same[number])
                else:
                    asked.append(ask(slower, environments, certified_on))
                    kept.add(asked[-1])
                print(" | ".join(asked[-1].row.values()), flush=True)
    text = account(asked, searched)
    print(f"\n{text}")
    if chosen.write:
        name = "recertified-pairs" if chosen.paired else "recertified"
        write_section(REPOSITORY / "docs" / "deploy.md", name, text)
    return 0 if all(one.is_right for one in asked) else 1


if __name__ == "__main__":
    sys.exit(main())
