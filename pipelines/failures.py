"""Why a run or a step of it failed, in the words of whoever raised it."""

import dagster as dg

_WRAPPERS = ("DagsterExecutionStepExecutionError", "DagsterExecutionLoadInputError", "RetryRequestedFromPolicy")
TERMINATED = "it was terminated; start it again, and it goes on where it stopped"


_DATA_OF = {
    dg.DagsterEventType.STEP_FAILURE: "step_failure_data",
    dg.DagsterEventType.RUN_FAILURE: "job_failure_data",
    dg.DagsterEventType.RUN_CANCELED: "job_canceled_data",
}


def failure_message(event: dg.DagsterEvent) -> str:
    """What failed, in the words of what the asset raised: Dagster wraps that, and what it was made from says less.

    Args:
        event: the failure of a step, or the end of a run that failed or was canceled.

    Returns:
        Empty where the event has no error.
    """
    data = getattr(event, _DATA_OF[event.event_type])
    error = None if data is None else data.error  # none where a run was marked as failed from outside
    while error is not None and error.cause is not None and error.cls_name in _WRAPPERS:
        error = error.cause
    if error is None:
        return ""
    return TERMINATED if error.cls_name == dg.DagsterExecutionInterruptedError.__name__ else error.message.strip()
