"""The engine that tests claims of papers: experiments, run as searches of ordinary trials, then a
verdict for each claim.

**A study of your own** is an object, in a module, that ``robsearch validate MODULE:NAME`` runs. It
has four members (the protocol ``robsearch.claims.experiment.PaperStudy``):

- ``experiments``: a tuple of ``Experiment``. Each trains all its arms, at all its widths, with all
  its seeds, and may look at what the experiments before it found. An arm is a string, or an object
  that has a ``name``; the name is what Optuna's storage and MLflow keep (``param/arm``), so it
  should not change.
- ``claims``: a tuple of ``Claim``. Each has a sentence, and a function from ``Evidence`` to the
  ``Effect``s that must all lie above 0.
- ``tables(findings)``: data frames by caption. ``findings`` has the ``Evidence`` of each experiment
  by its name.
- ``figures(findings)``: drawings for the page, such as ``robsearch.claims.figures`` makes them.
  The effects of all claims with their intervals are drawn in any case.

``robsearch.papers`` has four such studies.
"""
