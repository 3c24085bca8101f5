"""The hop service of the chain; one file, standard library of Python 3.9 only."""
