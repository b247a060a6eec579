"""The optimized detector behind HTTP, with Ray Serve."""
