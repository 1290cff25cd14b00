"""A process that works on a run until it is killed: ``python -m tests.killed_run_worker DAGSTER_HOME``."""

import sys
import time

import dagster as dg

from assets.processes import mark_process


@dg.asset
def endless(context: dg.AssetExecutionContext) -> None:
    """Say which process works on it, and go on for good."""
    mark_process(context)
    print("working", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
        dg.materialize([endless], instance=instance)
