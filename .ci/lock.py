"""Writes requirements.lock: the installed version of every package that settings.ini needs. And, for this platform, the
same with the hash of each file that pip takes. Run by `make lock`."""

import json
import subprocess
import sys
import sysconfig
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
PLATFORM = f"cp{sys.version_info.major}{sys.version_info.minor}-{sysconfig.get_platform()}"
HASHES = ROOT / ".ci" / f"requirements-{PLATFORM}.txt"
HASHES_HEAD = f"""\
# requirements.lock with the SHA-256 of the files that pip takes on {PLATFORM}. Written by `make lock`.
# pip install --require-hashes --no-deps -r {HASHES.relative_to(ROOT)}
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


def with_hashes(lock: Path) -> list[str]:
    "A line for each package of the lock file: name==version and the SHA-256 of its file, which pip reads or fetches."
    words = ["-q", "--dry-run", "--ignore-installed", "--no-deps", "--report", "-", "-r", str(lock)]
    done = subprocess.run([sys.executable, "-m", "pip", "install", *words], stdout=subprocess.PIPE, check=True)
    lines = {}
    for taken in json.loads(done.stdout)["install"]:
        name, version = canonicalize_name(taken["metadata"]["name"]), taken["metadata"]["version"].partition("+")[0]
        sha256 = taken["download_info"]["archive_info"]["hashes"]["sha256"]
        lines[name] = f"{name}=={version} --hash=sha256:{sha256}\n"
    return [line for _, line in sorted(lines.items())]


if __name__ == "__main__":
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    settings = config["DEFAULT"]
    extras = ["requirements", "dev_requirements", "onnx_requirements"]  # what `make setup` installs
    requirements = [requirement for extra in extras for requirement in settings[extra].split()]
    lines = [f"{name}=={version}\n" for name, version in closure(requirements).items()]
    (ROOT / "requirements.lock").write_text(HEAD + "".join(lines), encoding="utf-8")
    print(f"requirements.lock: {len(lines)} packages")
    HASHES.write_text(HASHES_HEAD + "".join(with_hashes(ROOT / "requirements.lock")), encoding="utf-8")
    print(f"{HASHES.relative_to(ROOT)}: the same with hashes")
