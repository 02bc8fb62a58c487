"""Data sets with exact masks: built-in synthetic scenes first, standard benchmarks beside them."""
