"""Experiments: one file for each claim. What is swept, what theory says, a verdict with its interval."""
