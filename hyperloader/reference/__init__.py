"""The mathematics in plain PyTorch: the standard that every kernel is judged by, and a backend of its own."""
