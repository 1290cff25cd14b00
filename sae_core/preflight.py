"""What can be known to be wrong with a study before hours of work start."""

from sae_core.config import LocalExplainer, ModelConfig, StudyConfig
from sae_core.store import ArtifactStore


def preflight_study(study: StudyConfig, model: ModelConfig, store: ArtifactStore) -> None:
    """Refuse a study whose model, hook, text, explainer or embedder is not there.

    Reads no weights and no whole corpus; a study that passes can still fail on what only the data show.

    Raises:
        FileNotFoundError, ModuleNotFoundError, ValueError, ConnectionError: with what was expected, what came, and
            what to do.
    """
    from sae_core.corpus import load_documents
    from sae_core.devices import resolve_device
    from sae_core.embeddings import embedder_location
    from sae_core.language_models import preflight

    preflight(model, [study.hook], store)
    resolve_device(study.training.device)
    load_documents(model.corpus.source)  # refuses a corpus that is missing, empty, or without its column
    available = model.corpus.n_tokens
    if available is not None and available * (1 - model.corpus.held_out_fraction) < study.training.batch_size:
        raise ValueError(
            f"study {study.name}: too few tokens for one batch: corpus.n_tokens={available} of which "
            f"{model.corpus.held_out_fraction:.0%} are held out, batch_size={study.training.batch_size}; read more "
            "tokens or lower batch_size"
        )
    if isinstance(study.explanations.explainer, LocalExplainer):
        preflight(study.explanations.explainer.model, [], store)
    embedder_location(study.similarity)
