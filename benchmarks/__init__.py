"""Speed of cgopt: an asv suite (this folder) and a comparison with other solvers (``peers``)."""
