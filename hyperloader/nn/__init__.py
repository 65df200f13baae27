"""The modules that generate weights, keep them and apply them."""
