"""Jobs named for what people do, with a launch form: extract, train, measure, explain, everything, paper.

Stages of a study have different partitions, which one asset job cannot hold. So these jobs have a single step that
runs the chain as ``concord run`` does: every stage and partition is a run of its own in the history, what the store
has is a cache hit, and the log of the launching run says how far it is. Terminating it stops the chain; launching it
again goes on where it stopped.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg

from assets.keys import StudyKeys, activations_key, observe_job_name
from assets.processes import mark_process
from assets.recording import StoreResource
from pipelines.chains import Chain, Step, study_chain, synthetic_chain
from pipelines.loading import ProjectFiles
from pipelines.runner import StudyFailed, materialize_steps
from sae_core.config import ModelConfig, StudyConfig
from sae_core.synthetic_config import SyntheticStudyConfig

JOB_TAG = "sae_concord/job"
"""On the runs of these jobs; ``concurrency`` in dagster.yaml lets one of them run at a time."""
LAUNCHED_BY = "sae_concord/launched_by_run"
"""On the runs of the steps: the run that launched them."""

Form = dict[str, dg.Field]
ChainOf = Callable[[dict[str, Any]], Chain]
"""From what was filled in to what is run; raises ValueError for names that there are not."""


@dataclass(frozen=True)
class _Job:
    name: str
    text: str
    form: Form
    chain_of: ChainOf


def project_jobs(files: ProjectFiles, assets: dg.Definitions) -> list[dg.JobDefinition]:
    """The jobs, as far as there are files for them.

    Args:
        assets: those of the files, with what they need.
    """
    return [_job(job, assets) for job in (*_model_jobs(files), *_study_jobs(files), *_synthetic_jobs(files))]


def _model_jobs(files: ProjectFiles) -> Iterator[_Job]:
    if files.models:
        form = {"model": _choice("model", files.models, "Name of a model file."), "hooks": _names("Hook points")}
        text = "Read the text and store the language model's activations at its hook points."
        yield _Job("extract", text, form, lambda given: extraction(files.models[given["model"]], given["hooks"]))


def _study_jobs(files: ProjectFiles) -> Iterator[_Job]:
    if not files.studies:
        return

    def up_to(*stages: str) -> ChainOf:
        return lambda given: part_of_study(
            *files.studies[given["study"]], stages, given.get("variants", ()), given.get("seeds", ())
        )

    study = _choice("study", files.studies, "Name of a study file.")
    some = {"study": study, "variants": _names("Variants (such as `topk-d1024-k16`)")}
    seeds = dg.Field(dg.Array(dg.Int), default_value=[], description="Seeds of the study; none named: all of them.")
    everything = "A whole study: activations, SAEs, consistency, explanations, report."
    for name, text, form, stages in (
        ("train", "Train the SAEs of a study, and what they need.", some | {"seeds": seeds}, ["sae"]),
        ("measure", "Compare the seeds of a study (PW-MCC), and make what that needs.", some, ["consistency"]),
        (
            "explain",
            "Explain the features of a study, score the explanations and compare them, and make what that needs.",
            some,
            ["explanations", "scores", "similarity"],
        ),
        ("everything", everything, {"study": study}, []),
    ):
        yield _Job(name, text, form, up_to(*stages))


def _synthetic_jobs(files: ProjectFiles) -> Iterator[_Job]:
    if files.synthetic:
        study = _choice("synthetic_study", files.synthetic, "Name of a synthetic study file.")
        form = {"study": study, "experiments": _names("Experiments; the page is made where none is named. They")}
        text = "The experiments on synthetic data, and the published numbers beside what came out."
        yield _Job(
            "paper", text, form, lambda given: experiments_of(files.synthetic[given["study"]], given["experiments"])
        )


def extraction(model: ModelConfig, hooks: Sequence[str]) -> Chain:
    """The activations of a model at some of its hooks; none named: all of them."""
    _refuse_unknown("hooks", hooks, model.hooks, f"model {model.name}")
    return Chain(
        steps=[
            Step(f"activations of {model.name} at {hook}", activations_key(model.name, hook))
            for hook in hooks or model.hooks
        ],
        page="",
        table=lambda _folder: "",
        observe=observe_job_name(model.name),
    )


def part_of_study(
    study: StudyConfig, model: ModelConfig, stages: Sequence[str], variants: Sequence[str], seeds: Sequence[int]
) -> Chain:
    """The chain of a study up to some stages.

    Args:
        stages: properties of ``StudyKeys``; the last one to come ends the chain. None named: the whole chain.
        variants: keys; none named: all of them.
        seeds: none named: all of them.
    """
    _refuse_unknown("variants", variants, [variant.key for variant in study.variants], f"study {study.name}")
    _refuse_unknown("seeds", seeds, study.seeds, f"study {study.name}")
    chain = study_chain(study, model)
    if stages:
        ends = {getattr(StudyKeys(study.name), stage) for stage in stages}
        last = max(place for place, step in enumerate(chain.steps) if step.key in ends)
        chain = replace(chain, steps=chain.steps[: last + 1])
    return replace(chain, steps=[step for step in chain.steps if _wanted(step, variants, seeds)])


def _wanted(step: Step, variants: Sequence[str], seeds: Sequence[int]) -> bool:
    if step.partition is None:
        return True
    if isinstance(step.partition, dg.MultiPartitionKey):
        of_run = step.partition.keys_by_dimension
        return (not variants or of_run["variant"] in variants) and (not seeds or int(of_run["seed"]) in seeds)
    return not variants or step.partition in variants


def experiments_of(study: SyntheticStudyConfig, experiments: Sequence[str]) -> Chain:
    """Some experiments of a synthetic study; none named: all of them and the page."""
    _refuse_unknown("experiments", experiments, [each.name for each in study.experiments], f"study {study.name}")
    chain = synthetic_chain(study)
    return replace(chain, steps=[step for step in chain.steps if not experiments or step.key.path[1] in experiments])


def _refuse_unknown(what: str, given: Iterable[object], known: Sequence[object], where: str) -> None:
    if unknown := [str(each) for each in given if each not in known]:
        raise ValueError(f"{where} has no {what} {', '.join(unknown)}; it has {', '.join(map(str, known))}")


def _choice(name: str, known: Iterable[str], text: str) -> dg.Field:
    """One of the names; another one is refused before anything is launched."""
    names = sorted(known)
    default = next((each for each in ("quickstart", "paper") if each in names), names[0])
    values = dg.Enum(f"sae_concord_{name}", [dg.EnumValue(each) for each in names])
    return dg.Field(values, default_value=default, description=f"{text} One of {', '.join(names)}.")


def _names(what: str) -> dg.Field:
    return dg.Field(dg.Array(dg.String), default_value=[], description=f"{what}; none named: all of them.")


def _is_terminated(context: dg.OpExecutionContext) -> bool:
    run = context.instance.get_run_by_id(context.run_id)
    return run is not None and run.status == dg.DagsterRunStatus.CANCELING


def _job(job: _Job, assets: dg.Definitions) -> dg.JobDefinition:
    @dg.op(name=f"{job.name}_chain", description=job.text, config_schema=job.form)
    def chain(context: dg.OpExecutionContext, store: StoreResource) -> None:
        mark_process(context)
        try:
            steps = job.chain_of(context.op_config)
            if steps.preflight is not None:
                steps.preflight(store.open())
            tags = {LAUNCHED_BY: context.run_id}
            hits = materialize_steps(
                assets, context.instance, steps, context.log.info, tags, lambda: _is_terminated(context)
            )
        except (ValueError, OSError, StudyFailed) as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        context.add_output_metadata({"steps": len(steps.steps), "cache hits": hits})

    @dg.job(name=job.name, description=job.text, tags={JOB_TAG: job.name}, executor_def=dg.in_process_executor)
    def launched() -> None:
        chain()

    return launched
