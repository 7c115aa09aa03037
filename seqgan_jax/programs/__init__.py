"""What the entry points do: train, generate, evaluate."""
