"""Recipes, one file each, as in OptiKIT's ``recipes/quantization``."""
