"""What the documentation says about files is true."""

import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sae_core.config import StudyConfig

ROOT = Path(__file__).resolve().parent.parent


def test_the_tree_in_the_readme_names_every_module_and_nothing_else():
    readme = (ROOT / "README.md").read_text()
    for package in ("sae_core", "assets", "pipelines"):
        files = {path.relative_to(ROOT / package) for path in (ROOT / package).rglob("*.py")}
        modules = {path.parent.name if path.stem == "__init__" else path.stem for path in files} - {"", "defs"}
        section = (
            readme.split(f"\n{package}/")[1]
            .split("\n```")[0]
            .split("\nassets/")[0]
            .split("\npipelines/")[0]
            .split("\ndeploy/")[0]
            .split("\ntests/")[0]
        )
        named = set(re.findall(r"\b([a-z_0-9]+)(?:\.py\b|/)", section)) - {"templates", "defs"}
        assert named == modules, package


def test_files_that_the_documentation_links_exist():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links {target}"


def test_the_studies_in_the_readme_are_valid():
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    study, explanations = (yaml.safe_load(block) for block in blocks)
    assert study["type"] == "assets.components.Study"
    config = StudyConfig.model_validate(study["attributes"] | explanations)
    assert [explainer.kind for explainer in config.explanations.explainers] == ["lexical", "openai"]


def test_no_file_names_a_package_registry():
    hosts = re.compile(r"(pypi|files\.pythonhosted|registry\.npmjs|download\.pytorch)\.(org|com)")
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    named = [
        name
        for name in names
        if name != "tests/test_docs.py" and _text(ROOT / name) and hosts.search(_text(ROOT / name))
    ]
    assert named == []


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (UnicodeDecodeError, FileNotFoundError):
        return ""


def test_no_module_of_the_science_imports_the_orchestrator():
    modules = [module.name for module in pkgutil.walk_packages([str(ROOT / "sae_core")], "sae_core.")]
    code = f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
    code += "found = {name.split('.')[0] for name in sys.modules} & {'dagster', 'assets', 'pipelines'}\n"
    code += "assert not found, found"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_definitions_load_without_importing_torch():
    code = "import sys, pipelines.definitions as d; d.defs(); assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=True)


@pytest.mark.slow
def test_the_example_runs_and_its_seeds_agree_more_than_chance():
    command = [sys.executable, "-W", "ignore", str(ROOT / "examples" / "two_seeds.py")]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    value, truth, chance = (float(line.split()[-1]) for line in output.splitlines())
    assert min(value, truth) > chance + 0.2
