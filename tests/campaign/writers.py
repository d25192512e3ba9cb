def writers(world, figures, rng, *, long): pass
