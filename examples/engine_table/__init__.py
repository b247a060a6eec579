"""The benchmark table of the seed, and what else it does with engines: precisions, transformers, state, ranges."""
