"""How much of what a model draws are copies of its training set, and since when."""
