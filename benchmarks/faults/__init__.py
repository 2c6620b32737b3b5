"""What faults do to the stages on one machine: real processes, a real store, a real Dagster."""
