"Package metadata comes from settings.ini alone; the wheel carries the notebooks as `finerweb.nbs`."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=["="])
config.read("settings.ini", encoding="utf-8")
meta = config["DEFAULT"]
readme = Path("README.md")


def files(folder):
    "The files below `folder`, as package data: nothing hidden, no caches, no runs that were made there."
    paths = [p.relative_to(folder) for p in sorted(Path(folder).rglob("*")) if p.is_file()]
    return [p.as_posix() for p in paths if not any(part == "runs" or part.startswith((".", "__")) for part in p.parts)]


setup(
    name=meta["lib_name"],
    version=meta["version"],
    description=meta["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    author=meta["author"],
    author_email=meta["author_email"],
    url=meta["git_url"],
    license="Apache-2.0",
    keywords=meta["keywords"].split(),
    python_requires=f">={meta['min_python']}",
    install_requires=meta["requirements"].split(),
    extras_require={k.removesuffix("_requirements"): v.split() for k, v in meta.items() if k.endswith("_requirements")},
    packages=[*find_packages(include=["finerweb", "finerweb.*"]), "finerweb.nbs"],
    package_dir={"finerweb.nbs": "nbs"},
    package_data={"finerweb": ["assets/**/*"], "finerweb.nbs": files("nbs")},  # the sdist takes both from here
    entry_points={"console_scripts": meta["console_scripts"].split()},
    zip_safe=False,
)
