"""Width Adjusted Regularization (arXiv 2010.01279)."""

from robsearch.papers.war.experiments import WidthStudy
from robsearch.papers.war.presets import digits_recipe

__all__ = ["WidthStudy", "digits_recipe"]
