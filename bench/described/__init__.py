"""Tasks that were never seen, from their words and a few examples."""
