"""nemojax: the Nemotron-4 340B recipe in JAX, from pretraining to evaluation."""

__version__ = "0.1.0"
