"""What is certified, at the publishing targets: the asset `published_model`."""
