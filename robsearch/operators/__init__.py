"""One layer as a linear map, its bias left out: what it does, its norms, its singular values."""

from __future__ import annotations

from robsearch.operators.maps import Affine, Layer, Shape, adjoint, applied, extent, fold, margins, reshaped, scales
from robsearch.operators.norms import norm, pads, problems, spectral_norm
from robsearch.operators.spectra import blocks, grid, kernel_of, singular_values, spectrum

__all__ = [
    "Affine",
    "Layer",
    "Shape",
    "adjoint",
    "applied",
    "blocks",
    "extent",
    "fold",
    "grid",
    "kernel_of",
    "margins",
    "norm",
    "pads",
    "problems",
    "reshaped",
    "scales",
    "singular_values",
    "spectral_norm",
    "spectrum",
]
