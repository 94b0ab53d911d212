"""Writes requirements.lock: the installed version of every package that settings.ini needs. Run by `make lock`."""

from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
# The versions the tests run with, for Python 3.11 and 3.12: a pip constraints file.
# `make lock` writes it from the environment it finds.
# The Makefile gives it to pip; settings.ini holds the ranges that users of the package are held to.
"""


def closure(requirements: list[str]) -> dict[str, str]:
    "Package -> installed version, for the requirements and all that they require on this machine."
    versions, visited = {}, set()
    waiting = [(Requirement(r), "") for r in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for e in ["", *sorted(requirement.extras)]:
            if (name, e) in visited:
                continue
            visited.add((name, e))
            distribution = metadata.distribution(name)
            versions[name] = distribution.version.partition("+")[0]  # torch's +cpu and +cu130 are one version
            waiting += [(Requirement(r), e) for r in distribution.requires or ()]
    return dict(sorted(versions.items()))


if __name__ == "__main__":
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    settings = config["DEFAULT"]
    extras = ["requirements", "dev_requirements", "onnx_requirements"]  # what `make setup` installs
    requirements = [requirement for extra in extras for requirement in settings[extra].split()]
    lines = [f"{name}=={version}\n" for name, version in closure(requirements).items()]
    (ROOT / "requirements.lock").write_text(HEAD + "".join(lines), encoding="utf-8")
    print(f"requirements.lock: {len(lines)} packages")
