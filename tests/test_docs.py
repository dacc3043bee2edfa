"""Every line of code in README and docs runs: the Python blocks of a page in turn, `ravine` commands in order."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def with_code(language: str) -> list:
    return [pytest.param(page, id=page.name) for page in PAGES if blocks(page, language)]


@pytest.mark.parametrize("page", with_code("python"))
def test_python_blocks_run(page, tmp_path):
    code = "\n".join(blocks(page, "python"))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("page", with_code("console"))
def test_commands_run(page, tmp_path):
    lines = [line.split("#")[0].strip() for block in blocks(page, "console") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("ravine ")]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands:
        done = subprocess.run(
            command.split(), cwd=tmp_path, capture_output=True, text=True, timeout=300, env={**os.environ, "PATH": path}
        )
        assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"


def test_make_targets_exist():
    """The two set-up commands of the README are targets of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"^make ([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert named == ["demo", "test"]
    assert set(named) <= targets


def test_links_inside_the_repository_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_catalogue_of_methods_is_up_to_date():
    from ravine.optim.presets import METHODS
    from ravine.optim.presets._method import catalogue_page

    told = "run: ravine methods --markdown > docs/methods.md"
    assert (ROOT / "docs" / "methods.md").read_text() == catalogue_page(METHODS), told


def test_the_table_of_what_was_reached_is_up_to_date():
    from ravine import listing

    told = "write the table of docs/problems.md anew from ravine.listing.reached()"
    assert listing.reached() in (ROOT / "docs" / "problems.md").read_text(), told


def test_the_table_of_peers_comes_from_the_stored_runs():
    from benchmarks import report, runner

    told = "write the table of the README anew from benchmarks.report.summary, and run: python -m benchmarks report"
    runs = report.latest(report.undisturbed(runner.stored()))
    assert report.summary(runs) in (ROOT / "README.md").read_text(), told
    assert report.text(runs, "images/benchmarks.png") == (ROOT / "docs" / "benchmarks.md").read_text(), told


def test_the_number_of_methods_is_told_right():
    from ravine.optim.presets import METHODS

    (told,) = re.findall(r"(\d+) methods", (ROOT / "README.md").read_text())
    assert int(told) == len(METHODS)
