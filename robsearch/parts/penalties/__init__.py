"""Regularisers beside the objective: on the loss, on the gradients, or on the weights after a step.

``AverageMargin`` and ``Orthogonality`` add to the loss, ``NormDecay`` to the gradients,
``SingularValueClipping`` changes the weights. They act on the weights of ``Conv2d`` and ``Linear``
layers (see ``robsearch.network.layers``), never on biases or BatchNorm.
"""

from __future__ import annotations

from robsearch.parts.penalties.added import AverageMargin, Orthogonality
from robsearch.parts.penalties.clipping import SingularValueClipping
from robsearch.parts.penalties.norm_decay import NormDecay

__all__ = ["AverageMargin", "NormDecay", "Orthogonality", "SingularValueClipping"]
