"""Random graphs: generated from a seed, checked against the interpreter, shrunk on failure."""
