"""cgopt's conjugate gradients against SciPy's, PyAMG's, PETSc's and Eigen's, taking turns in one run."""
