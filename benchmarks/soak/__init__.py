"""A day of mixed runs in compressed time, and what grows meanwhile: one Dagster, many cycles."""
