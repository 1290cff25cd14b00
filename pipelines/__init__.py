"""How it runs: definitions, the command line, and the YAML that users write."""
