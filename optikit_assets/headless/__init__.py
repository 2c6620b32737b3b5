"""Runs a plan without a daemon: what is fresh, what has to run, and the processes that do it."""
