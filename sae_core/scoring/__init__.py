"""Scores of explanations: how far one predicts, on text that did not make it, where its feature fires.

``score.score_run`` scores the explanations of one run, ``results`` says what comes out. Nothing is imported here: a
report reads results without a language model or an embedder.
"""
