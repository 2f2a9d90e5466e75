"""Minimum and average margin (arXiv 1907.11780)."""
