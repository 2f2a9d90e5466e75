"""Width Adjusted Regularization (arXiv 2010.01279)."""

from robsearch.papers.war.experiments import WidthStudy
from robsearch.papers.war.presets import digits_recipe
from robsearch.papers.war.transfer import probe_ratio, static_war, thin_anchor

__all__ = ["WidthStudy", "digits_recipe", "probe_ratio", "static_war", "thin_anchor"]
