"""A day with a GPU: everything that needs one, in calls of some minutes, each going on where the last one ended."""
