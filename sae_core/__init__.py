"""The science of sae-concord: an ordinary Python library that knows no orchestrator.

Modules in the order of the flow: config, store, corpus, language_models, shards, activations, architectures,
training, evaluation, formats, matching, consistency, explanations, similarity, report. Each imports only from those
before it.
"""
