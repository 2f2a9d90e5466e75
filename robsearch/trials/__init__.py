"""A recipe trained in its folder: checkpoints, measures, the ladder of attacks, figures."""
