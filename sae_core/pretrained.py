"""SAEs that someone else trained, in place of runs of a study: brought into the layout that every later stage reads.

Beside *training* in the flow.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_core.formats import Source, load_sae, save_sae


def import_sae(folder: Path, source: Source, d_in: int, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Read an SAE in any known format and write it as an SAE artifact: the SAELens layout and ``source.json``.

    Args:
        folder: made if needed.
        source: the SAE, as :func:`sae_core.formats.resolve` found it.
        d_in: width of the activations it is to read.
        metadata: JSON values for ``cfg.json``, for example ``model_name`` and ``hook_name``.

    Returns:
        What it is and where it comes from.

    Raises:
        ValueError: if it reads other activations, or writes to another place than it reads (a transcoder); and as
            :func:`sae_core.formats.load_sae`.
    """
    sae, location = load_sae(source.path, source.format), source.location
    if sae.d_in != d_in:
        raise ValueError(
            f"{location}: this SAE reads activations of width {sae.d_in}, those of the study have width {d_in}; "
            "name the model and hook that it was trained on"
        )
    if sae.is_transcoder:
        raise ValueError(
            f"{location} is a transcoder: it does not reconstruct what it reads, so FVE and the recovered loss of a "
            "study do not apply; compare decoders with `concord compare`"
        )
    save_sae(sae, folder, dict(metadata))
    (folder / "source.json").write_text(source.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return {
        "architecture": sae.architecture,
        "d_sae": sae.d_sae,
        "format": source.format,
        "location": location,
        "revision": source.revision,
    }
