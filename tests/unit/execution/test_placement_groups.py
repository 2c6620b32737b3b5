"""What a pool makes of what a head and its nodes say; both are played here.

In a process of its own: Ray reads the variables of a cluster's token when it is imported.
"""

import subprocess
import sys

import pytest

from optikit_assets.settings import REPOSITORY

CODE = """
import dataclasses, json
from optikit_assets.engines import Hardware
from optikit_assets.errors import EnvironmentMissingError
from optikit_assets.execution.ray import groups
from optikit_assets.execution.ray.node import NodeFacts
from optikit_assets.execution.ray.pool import GPU, Node, Pool

class Session:
    checked = 0
    hears = False
    def check(self): self.checked += 1
    def head_answers(self): return self.hears

nodes = [Node(name, name, GPU, 1, {"kind": name}) for name in ("h100", "h200")]
session = Session()
pool = Pool(session, {"kind": "h100"})
pool.all_nodes = lambda: nodes
asked = groups.PlacementGroups(pool)

def group(selector, count, state="PENDING"):
    name = json.dumps(["optikit " + json.dumps(selector), count, 5.0, "x"])
    return {"name": name, "state": state}

said = [
    group({"kind": "h100"}, 1), group({"kind": "in(h100, h200)"}, 2), group({}, 3),
    group({"kind": "h200"}, 4), group({}, 5, "CREATED"),
    {"name": "", "state": "PENDING"}, {"name": "mine", "state": "PENDING"},
    {"name": "[1, 2, 3, 4]", "state": "PENDING"},
]
groups.placement_group_table = lambda: dict(enumerate(said))
assert asked.waiting() == [(1, 5.0), (2, 5.0), (3, 5.0)], asked.waiting()
assert session.checked

removed = []
groups.remove_placement_group = removed.append
assert not asked.give_back("group") and removed == []
session.hears = True
assert asked.give_back("group") and removed == ["group"]

one = NodeFacts(Hardware("cpu", "p", 1, 2**30), "1", "3", "h", "/", "/", variables={"A": "1"})
pool._take(nodes[0], one)
pool._take(nodes[1], one)
for variables in ({}, {"A": "2"}, {"A": "1", "B": "1"}):
    try:
        pool._take(nodes[1], dataclasses.replace(one, variables=variables))
    except EnvironmentMissingError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_pool_reads_what_is_said_of_it_and_refuses_a_node_with_other_variables() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=REPOSITORY,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [line.partition(" in its")[0] for line in done.stdout.splitlines()]
    assert told == [f"node h200 has another {name}" for name in "AAB"]
    assert "than node h100; run ray start on both with the same" in done.stdout
