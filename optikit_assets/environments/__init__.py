"""The three stage environments: what they hold, how they are built, whether they are ready.

Only the standard library is imported in this package: the set-up program runs before any
dependency exists.
"""
