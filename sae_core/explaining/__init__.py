"""Explanations of features: rules about words, or what a model that writes text says of marked examples.

``artifact.explain_run`` writes those of one run; ``lexical`` and ``chat_explainer`` hold the explainers.
"""
