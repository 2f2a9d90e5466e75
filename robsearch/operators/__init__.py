"""One layer as a linear map, its bias left out: what it does, its norms, its singular values."""

from __future__ import annotations

from robsearch.operators.maps import (
    Affine,
    BatchNorm,
    Conv,
    Layer,
    Shape,
    Transposed,
    adjoint,
    applied,
    convolution,
    extent,
    fold,
    margins,
    reshaped,
    scales,
)
from robsearch.operators.norms import norm, outputs, pads, problems, spectral_norm
from robsearch.operators.spectra import blocks, grid, kernel_of, singular_values, spectrum

__all__ = [
    "Affine",
    "BatchNorm",
    "Conv",
    "Layer",
    "Shape",
    "Transposed",
    "adjoint",
    "applied",
    "blocks",
    "convolution",
    "extent",
    "fold",
    "grid",
    "kernel_of",
    "margins",
    "norm",
    "outputs",
    "pads",
    "problems",
    "reshaped",
    "scales",
    "singular_values",
    "spectral_norm",
    "spectrum",
]
