"""Histograms counted by hand, and one by one."""

import itertools
import math

import pytest
import torch

from robsearch.errors import InputError
from robsearch.measures.distances import AttackDistance
from robsearch.measures.margins import InputMargin, LogitMargin, SampledMargin
from robsearch.measures.summaries import histogram


def test_a_value_on_an_edge_belongs_to_the_bin_that_it_begins():
    """Edges 0, 1/4, 1/2, 3/4, 1: below, [0, 1/4), [1/4, 1/2), [1/2, 3/4), [3/4, 1), from 1 on."""
    values = [-math.inf, -0.1, 0.0, 0.25 - 1e-12, 0.25, 0.5, 0.74, 0.75, 0.99, 1.0, 2.0, math.inf]
    edges, counts = histogram(torch.tensor(values, dtype=torch.float64), (0.0, 1.0), bins=4)
    assert edges.tolist() == [-math.inf, 0.0, 0.25, 0.5, 0.75, 1.0, math.inf]
    assert counts.tolist() == [2, 2, 1, 2, 2, 3]


def test_the_counts_are_those_of_the_sides_they_name():
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    edges, counts = histogram(values, (-0.7, 1.1), bins=30)
    sides = itertools.pairwise(edges.tolist())
    assert counts.tolist() == [
        int(((values.double() >= low) & (values.double() < high)).sum()) for low, high in sides
    ]
    assert counts.sum() == 1000
    assert counts[0] > 0 < counts[-1]


def test_edges_depend_on_the_span_alone():
    few, many = (histogram(torch.randn(n), (-1.0, 1.0))[0] for n in (0, 50))
    assert torch.equal(few, many)
    assert len(few) == 203
    assert torch.equal(few, histogram(torch.randn(9).double() * 1e6, (-1.0, 1.0))[0])
    assert histogram(torch.zeros(0), (-1.0, 1.0))[1].tolist() == [0] * 202


@pytest.mark.parametrize(
    "margin", [LogitMargin(), InputMargin(), SampledMargin(0.1), AttackDistance()], ids=repr
)
def test_right_and_wrong_never_share_a_bin(margin):
    """Zero is an edge of a margin's histogram, and its ends are the span's own."""
    low, high = margin.about.span
    edges, counts = histogram(torch.tensor([-1e-9, 0.0]), (low, high))
    assert (edges[1].item(), edges[101].item(), edges[-2].item()) == (low, 0.0, high)
    assert counts.nonzero().flatten().tolist() == [100, 101]


def test_histograms_refuse_all_at_once():
    with pytest.raises(InputError) as caught:
        histogram(torch.tensor([0.0, math.nan]), (1.0, 1.0), bins=0)
    assert len(caught.value.problems) == 3
    with pytest.raises(InputError, match="NaN in 2 of 3"):
        histogram(torch.tensor([math.nan, 0.0, math.nan]), (0.0, 1.0))
    with pytest.raises(InputError, match="finite span"):
        histogram(torch.zeros(1), (0.0, math.inf))
