"""Tests against real servers: Dagster's webserver, daemon and code server, Chromium, PostgreSQL. Marked ``live``."""
