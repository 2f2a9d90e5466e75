"""What a point of a figure says when the pointer rests on it, in the browser's own tooltip, and
where it leads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

POINTS_PER_INCH = 72.0
DISC = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="6"><title>{}</title></circle>')
LINK = Markup('<a href="{}" target="_blank">{}</a>')


class Spot(NamedTuple):
    """A point of a figure that answers the pointer; ``address`` is empty if it leads nowhere."""

    axes: Axes
    x: float
    y: float
    text: str
    address: str


def overlay(figure: Figure, spots: Sequence[Spot]) -> Markup:
    """The spots inside their axes as transparent discs over a figure that has been drawn, in the
    coordinates of its SVG."""
    width, height = POINTS_PER_INCH * figure.get_size_inches()
    to_figure = figure.transFigure.inverted()
    # Asked of matplotlib once for each of the axes: there may be thousands of spots.
    transforms = {axes: axes.transData + to_figure for axes in {spot.axes for spot in spots}}
    # A mark on the edge of its axes is still seen.
    insides = {axes: axes.get_position().padded(0.01) for axes in transforms}
    discs = []
    for axes, of_axes in groupby(spots, key=attrgetter("axes")):
        group = list(of_axes)
        positions = transforms[axes].transform([(spot.x, spot.y) for spot in group])
        for spot, (left, bottom) in zip(group, positions.tolist(), strict=True):
            if not insides[axes].contains(left, bottom):
                continue
            # SVG counts from the top, matplotlib from the bottom.
            disc = DISC.format(width * left, height * (1 - bottom), spot.text)
            discs.append(LINK.format(spot.address, disc) if spot.address else disc)
    return Markup('<g class="spots">{}</g>').format(Markup().join(discs)) if discs else Markup()
