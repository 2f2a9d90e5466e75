"""Whether curves of one shape fit all widths."""

import math

import numpy as np
import pytest
from planted_laws import planted
from scipy import stats

from robsearch.laws import Point, fit_ridge
from robsearch.laws.shape_test import ShapeTest

LAMS = tuple(np.geomspace(0.5, 16, 9).tolist())
WIDTHS = (1, 4, 16)


def dummies_rss(points, columns):
    """What least squares leave with a dummy for each (width, seed)."""
    groups = sorted({(p.width, p.seed) for p in points})
    table = [[float((p.width, p.seed) == group) for group in groups] for p in points]
    design = np.column_stack([np.array(table), *columns])
    value = np.array([p.value for p in points])
    left = value - design @ np.linalg.lstsq(design, value, rcond=None)[0]
    return float(left @ left)


def test_the_test_is_the_textbooks_nested_f_test():
    """Against a cubic at each width, 3 x 3 parameters instead of 3; times two for two tests."""
    random = np.random.default_rng(0)
    points = planted(lams=LAMS, sd=0.004, c=-0.004, rng=random)
    u, v = (np.log([getattr(p, name) for p in points]) for name in ("lam", "width"))
    own = [np.where(np.isclose(v, math.log(w)), u**k, 0.0) for w in WIDTHS for k in (1, 2, 3)]
    nested = dummies_rss(points, [u, u**2, u * v])
    full = dummies_rss(points, own)
    df = len(points) - 6 - 9
    f = (nested - full) / 6 / (full / df)
    shape = fit_ridge(points).shape
    assert shape.df == (6, df)
    of_cubic = stats.f.sf(f, 6, df)
    assert shape.p <= min(1, 2 * of_cubic) + 1e-12
    if shape.family == "cubic":
        assert shape.p == pytest.approx(min(1, 2 * of_cubic))


def test_one_shape_is_rejected_as_rarely_as_it_should_be():
    """Of 200 surfaces of one shape about one in twenty or fewer: Bonferroni is cautious."""
    rejected = 0
    for seed in range(200):
        points = planted(lams=LAMS, sd=0.006, c=-0.006, rng=np.random.default_rng(seed))
        rejected += not fit_ridge(points).shape.one_shape_fits
    assert rejected <= 10 + 2 * math.sqrt(10)


def test_a_skew_at_one_width_is_seen():
    points = planted(lams=LAMS, widths=(1, 4), sd=0.002, rng=np.random.default_rng(1))
    for lam in LAMS:
        u = math.log(lam / 3)
        points += [Point(16, lam, 0.5 - (0.002 if u < 0 else 0.02) * u**2, seed) for seed in (0, 1)]
    shape = fit_ridge(points).shape
    assert not shape.one_shape_fits
    assert "do not fit all widths" in shape.sentence()


def test_without_curves_nothing_is_said_of_the_shape():
    assert fit_ridge(planted(lams=(1, 2))).shape is None


def test_a_p_is_told_in_two_digits():
    assert ShapeTest(0.0123, "cubic", (6, 9)).sentence() == (
        "Curves of one shape do not fit all widths (p = 0.012), so each width has its own"
    )
    assert ShapeTest(0.32, "cubic", (6, 9)).sentence() == (
        "Curves of one shape fit all widths (p = 0.32)"
    )
