"""The server under load, beside the same sentences without it."""
