"""Print the lower bounds of pyproject.toml as pins: what the package and its tests need, at their oldest."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
runners = ("pytest>", "hypothesis", "psutil", "hictkpy")
tests = [line for line in project["optional-dependencies"]["test"] if line.startswith(runners)]
for requirement in project["dependencies"] + tests:
    print(requirement.replace(">=", "=="))
