"""The papers whose claims are tested, one folder each: experiments, claims, figures."""
