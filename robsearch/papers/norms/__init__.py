"""Norms of layers (arXiv 2009.08435)."""
