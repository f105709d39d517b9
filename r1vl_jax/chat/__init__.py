"""A model that answers: what `r1vl_jax.load` returns, its prompts and conversations, and generation in few programs."""
