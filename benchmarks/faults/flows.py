"""The flows of the plays, under the names by which entry points find them."""

from benchmarks.faults.stages import flow_of

compress = flow_of("compress")
evaluate = flow_of("evaluate")
sweep = flow_of("sweep")
tune = flow_of("tune")
deploy = flow_of("deploy")
