"""Train, study and sample diffusion and flow models in JAX."""
