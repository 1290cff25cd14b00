"""Partitions of a study: variant x seed for runs, variant for what compares the seeds; groups of an experiment."""

from dataclasses import dataclass
from typing import cast

import dagster as dg

from sae_core.config import StudyConfig
from sae_core.synthetic_config import ExperimentConfig


@dataclass(frozen=True)
class StudyPartitions:
    """The two partitionings of a study; a new seed or variant is a new partition and leaves the others alone."""

    variants: dg.StaticPartitionsDefinition
    runs: dg.MultiPartitionsDefinition


def study_partitions(study: StudyConfig) -> StudyPartitions:
    """Partitions from the variants and seeds of a study file."""
    variants = dg.StaticPartitionsDefinition([variant.key for variant in study.variants])
    seeds = dg.StaticPartitionsDefinition([str(seed) for seed in study.seeds])
    return StudyPartitions(variants, dg.MultiPartitionsDefinition({"variant": variants, "seed": seeds}))


def run_key(variant: str, seed: int) -> dg.MultiPartitionKey:
    """Partition key of one run."""
    return dg.MultiPartitionKey({"variant": variant, "seed": str(seed)})


def split_run_key(context: dg.AssetExecutionContext) -> tuple[str, int]:
    """Variant key and seed of the run partition that is being materialized."""
    keys = cast("dg.MultiPartitionKey", context.partition_key).keys_by_dimension
    return keys["variant"], int(keys["seed"])


def all_seeds_of_variant(key: dg.AssetKey) -> dg.AssetDep:
    """A dependency of a variant on every seed of it."""
    return dg.AssetDep(key, partition_mapping=dg.MultiToSingleDimensionPartitionMapping("variant"))


def variant_of_run(key: dg.AssetKey) -> dg.AssetDep:
    """A dependency of a run on its variant."""
    return dg.AssetDep(key, partition_mapping=dg.MultiToSingleDimensionPartitionMapping("variant"))


def all_partitions(key: dg.AssetKey) -> dg.AssetDep:
    """A dependency on every partition."""
    return dg.AssetDep(key, partition_mapping=dg.AllPartitionMapping())


def group_partitions(experiment: ExperimentConfig) -> dg.StaticPartitionsDefinition | None:
    """A partition for each group of an experiment; None where there is only one group."""
    names = [group.name for group in experiment.groups]
    return dg.StaticPartitionsDefinition(names) if len(names) > 1 else None


def groups_by_partition(experiment: ExperimentConfig) -> dict[str | None, str]:
    """Names of the groups by partition key; the key is None where there are no partitions."""
    names = [group.name for group in experiment.groups]
    return {name: name for name in names} if len(names) > 1 else {None: names[0]}


def all_groups(key: dg.AssetKey, experiment: ExperimentConfig) -> dg.AssetDep:
    """A dependency on every group of an experiment."""
    return all_partitions(key) if group_partitions(experiment) else dg.AssetDep(key)
