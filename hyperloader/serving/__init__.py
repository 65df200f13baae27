"""Answers to texts: in Python, for the command ``predict``, and over HTTP."""
