"""The assets of real study files with stand-ins for bodies: the graph, partitions, versions and conditions are those of
the project, and content is a digest of what it is made of. What the daemon does is done by hand, tick by tick.

A run costs a tenth of a second and more, so what a run would record is recorded without one where nothing else of it
matters; ``real_runs`` runs them all, to show that it makes no difference.
"""

import json
from pathlib import Path

import dagster as dg

from assets.components import model_definitions, study_definitions, synthetic_definitions
from assets.stale_statuses import statuses_now
from sae_core.config import ModelConfig, StudyConfig
from sae_core.store import digest_json
from sae_core.synthetic_config import SyntheticStudyConfig

K2 = "topk-d16-k2"
"""Key of the variant of ``study_config``."""


def model_config(folder, name="m", **changes):
    """A model file whose model and text are files that need not be any: they are hashed, never read."""
    folder = Path(folder)
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "config.json").write_text("{}")
    (folder / f"{name}.jsonl").write_text(json.dumps({"text": "some text"}))
    write_weights(folder, "first", name)
    return ModelConfig.model_validate(
        {
            "name": name,
            "source": {"kind": "local", "path": str(folder / name)},
            "corpus": {"source": {"kind": "local", "path": str(folder / f"{name}.jsonl")}},
            "hooks": ["h.1"],
        }
        | changes
    )


def write_weights(folder, weights, name="m"):
    (Path(folder) / name / "model.safetensors").write_text(weights)


def study_config(**changes):
    """One variant, two seeds."""
    return StudyConfig.model_validate(
        {
            "name": "s",
            "model": "m",
            "hook": "h.1",
            "variants": [{"architecture": "topk", "d_sae": 16, "k": 2}],
            "seeds": [0, 1],
            "training": {"n_steps": 10, "warmup_steps": 0, "sparsity_warmup_steps": 0},
            "automation": "when_stale",
        }
        | changes
    )


def synthetic_study(**changes):
    group = {
        "data": [{"d_in": 4, "d_gt": 4, "k": 1}],
        "variants": [{"architecture": "standard", "d_sae": 4, "l1_coefficient": 0.1}],
        "recipes": ["r"],
    }
    return SyntheticStudyConfig.model_validate(
        {
            "name": "y",
            "seeds": [0, 1],
            "recipes": {"r": {"n_steps": 5}},
            "experiments": [{"name": "e", "title": "e", "groups": [group]}],
            "language_model_study": "s",
            "automation": "eager",
        }
        | changes
    )


class World:
    """Some study files, an instance, and what happens to them."""

    def __init__(self, instance, models, studies, synthetic=(), real_runs=False):
        self.instance, self.cursor, self.real_runs = instance, None, real_runs
        self.failing, self.bad_checks, self.salt, self.during = set(), set(), {}, {}
        """Assets (as shown) whose body fails, whose blocking checks do not pass, whose content is another; what happens
        while one is being made."""
        self.load(models, studies, synthetic)

    def load(self, models, studies, synthetic=()):
        """The files as they are now, as after a reload of the code location."""
        self.models = models
        parts = [model_definitions(model, studies) for model in models]
        by_name = {model.name: model for model in models}
        parts += [study_definitions(study, by_name[study.model]) for study in studies]
        named = {study.name: study for study in studies}
        parts += [synthetic_definitions(study, named.get(study.language_model_study)) for study in synthetic]
        assets = [asset for part in parts for asset in part.assets]
        self.definitions = dg.Definitions(
            assets=[self._stand_in(asset) if isinstance(asset, dg.AssetsDefinition) else asset for asset in assets],
            jobs=[job for part in parts for job in part.jobs or []],
            executor=dg.in_process_executor,
        )
        self.job = self.definitions.resolve_implicit_global_asset_job_def()
        self.graph = self.definitions.resolve_asset_graph()

    def _stand_in(self, asset):
        (spec,) = asset.specs
        checks = list(asset.check_specs)

        @dg.multi_asset(
            name="_".join(spec.key.path).replace(".", "_").replace("-", "_"),
            specs=[spec],
            check_specs=checks,
            op_tags=dict(asset.node_def.tags),
            partitions_def=asset.partitions_def,
        )
        def body(context: dg.AssetExecutionContext):
            partition = str(context.partition_key) if context.has_partition_key else None
            shown = show(spec.key, partition)
            if shown in self.failing:
                raise dg.Failure("on purpose", allow_retries=False)
            content = self._content(spec.key, partition)
            if shown in self.during:
                self.during.pop(shown)()
            yield dg.MaterializeResult(
                data_version=dg.DataVersion(content),
                check_results=[
                    dg.AssetCheckResult(check_name=check.name, passed=not (check.blocking and shown in self.bad_checks))
                    for check in checks
                ],
            )

        return body

    def _content(self, key, partition):
        """What a run would make of what is there now."""
        statuses = statuses_now(self.definitions, self.instance)
        parents = [self.content(*parent) for parent in statuses.parents(key, partition)]
        return digest_json([self.graph.get(key).code_version, parents, self.salt.get(show(key, partition), "")])

    def _record(self, key, partition):
        """What a run that succeeds leaves behind."""
        tags = {
            "dagster/code_version": self.graph.get(key).code_version,
            "dagster/data_version": self._content(key, partition),
            "dagster/data_version_is_user_provided": "true",
        }
        for parent in self.graph.get(key).parent_keys:
            latest = self.instance.get_latest_data_version_record(parent, self.graph.get(parent).is_external)
            name = parent.to_user_string()
            tags[f"dagster/input_data_version/{name}"] = self.content(parent) or "INITIAL"
            tags[f"dagster/input_event_pointer/{name}"] = str(latest.storage_id) if latest else "NULL"
        self.instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition, tags=tags))

    def content(self, key, partition=None):
        """Data version of a partition as it is now."""
        record = self.instance.get_latest_data_version_record(key, self.graph.get(key).is_external, partition)
        event = record and (record.asset_materialization or record.asset_observation)
        return event and event.tags["dagster/data_version"]

    def observe(self, model="m"):
        """What the schedule does each hour."""
        return self.definitions.resolve_job_def(f"observe_{model}").execute_in_process(
            instance=self.instance, raise_on_error=False
        )

    def run(self, *shown):
        """Materialize partitions, whatever their status; the number of those that succeeded."""
        return sum(self._run(each) for each in shown)

    def _run(self, shown):
        name, _, partition = shown.partition(" ")
        key, partition = dg.AssetKey(name.split("/")), partition.strip("[]") or None
        if not self.real_runs and shown not in {*self.failing, *self.bad_checks, *self.during}:
            self._record(key, partition)
            return True
        return self.job.execute_in_process(
            instance=self.instance, asset_selection=[key], partition_key=partition, raise_on_error=False
        ).success

    def tick(self):
        """What the daemon would launch now, sorted."""
        result = dg.evaluate_automation_conditions(self.definitions, self.instance, cursor=self.cursor)
        self.cursor = result.cursor
        return sorted(
            show(key, partition)
            for key in self.graph.get_all_asset_keys()
            for partition in result.get_requested_partitions(key)
        )

    def settle(self, ticks=20):
        """Run what is requested until nothing is; the requests, tick by tick."""
        requests = []
        for _ in range(ticks):
            requests.append(self.tick())
            if not requests[-1]:
                return requests[:-1]
            self.run(*requests[-1])
        raise AssertionError(f"still not settled: {requests}")

    def make_all(self):
        """Everything, in order, by hand."""
        for key in self.graph.toposorted_asset_keys:
            node = self.graph.get(key)
            if node.is_materializable:
                partitions = node.partitions_def.get_partition_keys() if node.partitions_def else [None]
                assert self.run(*(show(key, partition) for partition in partitions)) == len(partitions)


def show(key, partition=None):
    return key.to_user_string() + (f" [{partition}]" if partition else "")


def made(instance, files, real_runs=False, **changes):
    """A study with everything made and nothing to do."""
    world = World(instance, [model_config(files)], [study_config(**changes)], real_runs=real_runs)
    assert world.observe().success
    world.make_all()
    assert world.tick() == []
    return world


def flat(requests):
    return [each for tick in requests for each in tick]
