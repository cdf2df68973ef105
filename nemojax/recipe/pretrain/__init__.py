"""Pretraining and continued pretraining on tokenized text."""
