"""Similarity: whether features that come back under another seed are explained alike. Last measurement of the flow.

``compare`` puts every measure together; a module ``<kind>_measure`` holds each of them; ``draws`` says which matched
pairs are explained where not all are; ``results`` are the records that a report reads. Import these modules: the last
two need no model.
"""
