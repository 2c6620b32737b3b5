"""Engine flags: the asset `tuned_config`."""
