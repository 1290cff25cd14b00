"""What can be known to be wrong with a study before hours of work start."""

from sae_core.config import LexicalExplainer, LocalChat, ModelConfig, PretrainedConfig, StudyConfig
from sae_core.store import ArtifactStore


def preflight_study(study: StudyConfig, model: ModelConfig, store: ArtifactStore) -> None:
    """Refuse a study whose model, hook, text, explainer or embedder is not there.

    Reads no weights and no whole corpus; a study that passes can still fail on what only the data show.

    Raises:
        FileNotFoundError, ModuleNotFoundError, ValueError, ConnectionError: with what was expected, what came, and
            what to do.
    """
    from sae_core.corpus import load_documents
    from sae_core.embeddings import embedder_location
    from sae_core.language_models import preflight

    preflight(model, [study.hook], store)
    load_documents(model.corpus.source)  # refuses a corpus that is missing, empty, or without its column
    _check_training(study, model)
    _check_pretrained(study)
    embedder_location(study.embedder)
    _check_chat(study, store)


def _check_chat(study: StudyConfig, store: ArtifactStore) -> None:
    """Models that write text: their files, packages and keys are there. No request is made."""
    from sae_core.chat import check_chat
    from sae_core.language_models import preflight

    explainers = [each for each in study.explanations.explainers if not isinstance(each, LexicalExplainer)]
    for asked in (*explainers, study.scoring.scorer, study.similarity.judge):
        if asked is not None:
            check_chat(asked)
            if isinstance(asked, LocalChat):
                preflight(asked.model, [], store)


def _check_training(study: StudyConfig, model: ModelConfig) -> None:
    from sae_core.devices import resolve_device
    from sae_core.training.observers import require_watchers
    from sae_core.training.schedules import fitted_to

    training = study.training
    if training is None:
        return
    resolve_device(training.device)
    require_watchers(training.watch)
    available, held_out = model.corpus.n_tokens, model.corpus.held_out_fraction
    if available is not None:
        # An upper bound: what is not stored (position 0, special tokens) is known only when the text was read.
        n_tokens = int(available * (1 - held_out) * training.data_fraction)
        try:
            fitted_to(training, n_tokens)
        except ValueError as error:
            raise ValueError(
                f"study {study.name}: of corpus.n_tokens={available:,}, {held_out:.0%} are held out and "
                f"data_fraction={training.data_fraction:g} of the rest is seen: {error}"
            ) from None


def _check_pretrained(study: StudyConfig) -> None:
    """Fetch and read the pretrained SAEs: hours of extraction are not worth starting for a wrong path."""
    from sae_core.formats import load_sae

    for variant in study.variants:
        if isinstance(variant, PretrainedConfig):
            widths = {location: load_sae(location, variant.format).d_in for location in variant.saes}
            if len(set(widths.values())) > 1:
                listed = ", ".join(f"{location} reads {width}" for location, width in widths.items())
                raise ValueError(f"study {study.name}: SAEs of variant {variant.key} read different widths: {listed}")
