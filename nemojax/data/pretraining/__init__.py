"""Tokenized corpora, their blends, and the samples of a pretraining run."""
