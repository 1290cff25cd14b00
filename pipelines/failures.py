"""Why a run or a step of it failed, in the words of whoever raised it."""

import dagster as dg

_WRAPPERS = ("DagsterExecutionStepExecutionError", "DagsterExecutionLoadInputError", "RetryRequestedFromPolicy")
TERMINATED = "it was terminated; start it again, and it goes on where it stopped"


def failure_message(event: dg.DagsterEvent) -> str:
    """What failed, in the words of what the asset raised: Dagster wraps that, and what it was made from says less.

    Args:
        event: the failure of a step, or the end of a run that failed or was canceled.

    Returns:
        Empty where the event has no error.
    """
    # All three carry one; none where a run was marked as failed from outside.
    error = getattr(event.event_specific_data, "error", None)
    while error is not None and error.cause is not None and error.cls_name in _WRAPPERS:
        error = error.cause
    if error is None:
        return ""
    return TERMINATED if error.cls_name == dg.DagsterExecutionInterruptedError.__name__ else error.message.strip()
