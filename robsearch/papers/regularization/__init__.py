"""What adversarial training regularises (arXiv 2011.07478)."""
