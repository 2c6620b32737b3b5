"""A campaign on cards that are not there: the project's plan, agenda and leases in virtual time.

``python -m benchmarks.cluster`` replays it on 8 to 512 cards and beside it the paper's staged actor
pools; ``docs/cluster.md`` has what came out.
"""
