"""What a user would otherwise write: the providers that ours are compared with."""
