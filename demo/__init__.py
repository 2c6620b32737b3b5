"""The demo model, its training script and the generators of its three evaluation tasks."""
