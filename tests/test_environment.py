"""The lists of packages agree: pyproject.toml, requirements.lock, environment.yaml, the recipes of containers."""

import re
import tomllib

import pytest
import yaml
from conftest import PROJECT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

CONTAINERFILE = (PROJECT / "containers" / "Containerfile").read_text()
APPTAINER = (PROJECT / "containers" / "stedm.def").read_text()
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


@pytest.mark.parametrize("recipe", [CONTAINERFILE, APPTAINER], ids=["oci", "apptainer"])
def test_images_hold_what_make_setup_installs(recipe):
    """Of a Python that the project supports, both of the same image, from a registry that all may use."""
    [base] = re.findall(r"^(?:FROM|From:) (\S+)$", recipe, re.MULTILINE)
    python = re.fullmatch(r"docker\.io/library/python:(\d+\.\d+)-slim-[a-z]+", base)
    assert base in CONTAINERFILE and base in APPTAINER
    assert SpecifierSet(PYPROJECT["project"]["requires-python"]).contains(python[1])
    [installed] = re.findall(r"pip install (.*?--editable \.)\s", recipe, re.DOTALL)
    assert "--constraint requirements.lock" in installed and "index:+" in installed.replace("TORCH_INDEX:+", "index:+")
    assert set(re.findall(r"https?://[^\s/]+", recipe)) == {"https://download.pytorch.org"}


def test_images_are_built_from_files_that_are_there():
    copied = [name for names in re.findall(r"^COPY (.*) \S+$", CONTAINERFILE, re.MULTILINE) for name in names.split()]
    listed = APPTAINER.split("%files\n")[1].split("\n\n")[0].split()
    assert copied == listed[::2] and listed[1::2] == [f"/project/{name}" for name in copied]
    metadata = PYPROJECT["project"]
    assert {"pyproject.toml", "requirements.lock", "src", metadata["readme"], *metadata["license-files"]} == set(copied)
    ignored = (PROJECT / ".dockerignore").read_text().splitlines()
    assert ignored.index("*") == 1 and [line[1:] for line in ignored if line.startswith("!")] == copied


def test_the_image_s_user_is_not_root():
    assert re.findall(r"^USER (\S+)$", CONTAINERFILE, re.MULTILINE)[-1] == "stedm"
