"""Two attentions for dyhead_jax: `strips.StripAttention` (spatial) and `gates.SqueezeGates` (task)."""
