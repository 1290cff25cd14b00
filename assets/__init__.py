"""What exists: each stage of the flow as a Dagster asset."""
