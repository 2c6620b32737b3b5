"""Scripts that turn the trial history into the tables of the documentation."""
