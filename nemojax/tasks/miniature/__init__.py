"""An embedded toy world: text, tasks with verifiers, teachers and annotators.

It stands in for the corpora, teacher models and human annotators of the Nemotron-4
recipe, so that the whole recipe runs with nothing to download. Only the standard
library is imported here.
"""
