"""Claims of four papers as experiments with verdicts: ``robsearch validate war | norms | margins | regularization``."""
