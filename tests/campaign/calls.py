def calls(world, figures, rng, *, long): pass
