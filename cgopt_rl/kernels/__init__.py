"""The front end's compiled loops: random numbers, bandits, environments, rollouts, advantages.

They are compiled when first called and kept on disk, as those of `cgopt.kernels` are; importing them compiles nothing.
"""
