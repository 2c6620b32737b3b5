"""The pipeline on a real instruction-tuned model, which comes from a package: `make demo-real`."""
