"""PackNet, a network that estimates depth from one picture, from PyTorch to an engine with GroupNorm plugins."""
