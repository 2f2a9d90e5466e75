"""How a network is looked at: modes, layers, layers as linear maps, balls around images, random
numbers of each image."""
