"""The commands of the laboratory: train, evaluate, datasets, studies."""
