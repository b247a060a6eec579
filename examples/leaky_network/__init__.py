"""A network that is built by hand, layer by layer, with a leaky ReLU plugin, saved as an engine and loaded again."""
