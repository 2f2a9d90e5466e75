"""What a point of a figure says when the pointer rests on it, in the browser's own tooltip, and
where it leads."""

from __future__ import annotations

from collections.abc import Sequence
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
    discs = []
    for spot in spots:
        # SVG counts from the top, matplotlib from the bottom.
        place = spot.axes.transData.transform((spot.x, spot.y))
        left, bottom = figure.transFigure.inverted().transform(place)
        # A mark on the edge of its axes is still seen.
        if spot.axes.get_position().padded(0.01).contains(left, bottom):
            disc = DISC.format(width * left, height * (1 - bottom), spot.text)
            discs.append(LINK.format(spot.address, disc) if spot.address else disc)
    return Markup('<g class="spots">{}</g>').format(Markup().join(discs)) if discs else Markup()
