"""Data: sets that know how to read themselves, the Arrow store that shares them, and augmentation.

``read()`` gives the splits of a set from their source (scikit-learn, torchvision's files in a
folder or an object store, a folder of one's own images); ``load`` gives the same splits as
read-only memory maps of one Arrow file per node, so that all trials of a node share the images.
Training uses ``train``, selection ``val``, the final judgement ``test``; the three are disjoint.

Each set has fields for what its splits are: ``label_noise``, the share of the training labels that
is wrong, ``noisy_val``, and ``draw``, which draw of ``train``, ``val`` and wrong labels it is. Draw
0 is that of every set by default. With ``draw="seed"`` each seed of a recipe has a draw of its own:
``Recipe.resolved_data`` fills it in, so a search with ``replicates`` redraws for each, and where
seeds are ``paired`` replicate r of every suggestion has the same images and wrong labels. ``test``
is the same in all draws. A draw counts towards the recipe's digest as if its number had been given,
and is a file of its own in the store, its ``test`` included.

``digest`` names what a set is declared to be, without reading it; ``content_digest`` what its
images and labels are.
"""

from robsearch.data.augment import CropFlip
from robsearch.data.folder import Folder
from robsearch.data.mixed import Mixed
from robsearch.data.npz import NpzImages
from robsearch.data.sets import CIFAR10, CIFAR100, MNIST, SVHN, Digits, FashionMNIST
from robsearch.data.splits import wrong_labels
from robsearch.data.store import (
    arrow_file,
    check_source,
    commonest_share,
    content_digest,
    content_digests,
    digest,
    load,
)

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "SVHN",
    "CropFlip",
    "Digits",
    "FashionMNIST",
    "Folder",
    "Mixed",
    "NpzImages",
    "arrow_file",
    "check_source",
    "commonest_share",
    "content_digest",
    "content_digests",
    "digest",
    "load",
    "wrong_labels",
]
