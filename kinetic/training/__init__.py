"""Training a model with Lightning: objective, weights, optimiser, loggers."""
