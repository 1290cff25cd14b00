"""Chosen examples as rows of ``examples.parquet``: activations on every token, and marked text."""

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Int64

from sae_core.feature_contexts.codes import FeatureCodes
from sae_core.feature_contexts.contexts import ACTIVATING, EXAMPLE_SCHEMA, MARKED_SHARE, N_HALVES
from sae_core.feature_contexts.examples import Chosen
from sae_core.feature_contexts.places import KINDS, TextWindows
from sae_core.feature_contexts.text_kernels import marked_sizes, window_activations, write_marked


def example_table(
    codes: FeatureCodes, chosen: Chosen, windows: TextWindows, max_activation: Float32[np.ndarray, "n 2"]
) -> pa.Table:
    """Rows in the given order; see ``EXAMPLE_SCHEMA``."""
    feature, half = chosen.slot // N_HALVES, chosen.slot % N_HALVES
    begin = windows.begin[chosen.peak]
    length = windows.end[chosen.peak] - begin
    first = np.append(0, np.cumsum(length))
    values = np.zeros(first[-1], np.float32)
    window_activations(codes.start, codes.token, codes.activation, feature, begin, first, values)
    marks = values > np.repeat(MARKED_SHARE * max_activation[feature, half], length)
    activating = np.array([kind in ACTIVATING for kind in KINDS])[chosen.kind]
    return pa.table(
        {
            "feature": codes.features[feature].astype(np.int32),
            "half": half.astype(np.int8),
            "kind": pa.array(KINDS).take(pa.array(chosen.kind)),
            "quantile": chosen.quantile,
            "start": begin,
            "length": length.astype(np.int16),
            "peak": (chosen.peak - begin).astype(np.int16),
            "activation": values[first[:-1] + chosen.peak - begin] if len(begin) else np.zeros(0, np.float32),
            "activations": _lists(values, length, activating),
            "text": _texts(windows, begin, first, marks),
        },
        schema=EXAMPLE_SCHEMA,
    )


def _lists(
    values: Float32[np.ndarray, " m"], length: Int64[np.ndarray, " n"], kept: Bool[np.ndarray, " n"]
) -> pa.ListArray:
    """A list of its values for every kept window, null for the others."""
    offsets = np.append(0, np.cumsum(np.where(kept, length, 0))).astype(np.int32)
    inside = values[np.repeat(kept, length)]
    return pa.ListArray.from_arrays(offsets, inside, mask=pa.array(~kept))


def _texts(
    windows: TextWindows,
    begin: Int64[np.ndarray, " n"],
    first: Int64[np.ndarray, " starts"],
    marks: Bool[np.ndarray, " m"],
) -> pa.StringArray:
    """What ``HeldOutText.marked`` gives for each window."""
    pieces, piece_start = windows.text.utf8
    out_start = np.append(0, np.cumsum(marked_sizes(piece_start, begin, first, marks)))
    out = np.empty(out_start[-1], np.uint8)
    write_marked(pieces, piece_start, begin, first, marks, out_start, out)
    return pa.StringArray.from_buffers(len(begin), pa.py_buffer(out_start.astype(np.int32)), pa.py_buffer(out))
