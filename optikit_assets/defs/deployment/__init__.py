"""The choice, its certification and its bundle: the asset `deployable_config`."""
