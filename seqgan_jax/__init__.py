"""SeqGAN, a generator of discrete sequences trained by policy gradient, in functional JAX."""
