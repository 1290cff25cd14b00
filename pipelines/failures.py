"""Why a step of a run failed, in the words of whoever raised it."""

import dagster as dg

_WRAPPERS = ("DagsterExecutionStepExecutionError", "DagsterExecutionLoadInputError", "RetryRequestedFromPolicy")


def failure_message(event: dg.DagsterEvent) -> str:
    """Of a step failure: the message of what the asset raised.

    Dagster wraps that; what it was made from in turn says less than it does. Empty where the event has no error.
    """
    error = event.step_failure_data.error
    while error is not None and error.cause is not None and error.cls_name in _WRAPPERS:
        error = error.cause
    if error is None:
        return ""
    if error.cls_name == dg.DagsterExecutionInterruptedError.__name__:
        return "it was terminated; start it again, and it goes on where it stopped"
    return error.message.strip()
