"""What this project has; every folder with a defs.yaml is a component."""
