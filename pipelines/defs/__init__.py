"""The models and studies: the YAML that users write."""
