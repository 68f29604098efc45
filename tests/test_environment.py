"""The three lists of packages agree: pyproject.toml, requirements.lock, environment.yaml."""

import tomllib

import pytest
import yaml
from conftest import PROJECT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
WANTED = [*PYPROJECT["project"]["dependencies"], *PYPROJECT["dependency-groups"]["dev"]]


def locked() -> dict[str, str]:
    lines = (PROJECT / "requirements.lock").read_text().splitlines()
    pins = [line.split(";")[0].strip().split("==") for line in lines if "==" in line.split(";")[0]]
    return {canonicalize_name(name): version for name, version in pins}


@pytest.mark.parametrize("wanted", WANTED)
def test_the_lock_holds_what_pyproject_asks_for(wanted):
    requirement = Requirement(wanted)
    version = locked().get(canonicalize_name(requirement.name))
    assert version is not None and requirement.specifier.contains(version), f"make lock: {wanted}, locked {version}"


def test_conda_s_environment_is_that_of_make_setup():
    environment = yaml.safe_load((PROJECT / "environment.yaml").read_text())
    [pip] = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    development = {Requirement(wanted).name for wanted in PYPROJECT["dependency-groups"]["dev"]}
    assert set(pip) == {"--constraint requirements.lock", "--editable .", *development}
    assert f"python {PYPROJECT['project']['requires-python']}" in environment["dependencies"]
