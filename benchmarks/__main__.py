"""`python -m benchmarks`: environments, runs, report, micro-benchmarks, check."""

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks import envs, micro, report, runner
from benchmarks.start import PROBLEMS


def chosen(text: str, known: list[str], what: str) -> list[str]:
    """Comma-separated names, all by default. **Raises:** `SystemExit` for an unknown one."""
    names = known if text == "all" else text.split(",")
    for name in names:
        if name not in known:
            raise SystemExit(f"benchmarks: there is no {what} {name!r}; choose from {', '.join(known)}.")
    return names


def parser() -> argparse.ArgumentParser:
    """What can be typed."""
    top = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    one = commands.add_parser("envs", help="make the environments of all families")
    one.add_argument("--families", default="all", help=f"of {', '.join(envs.FAMILIES)}")
    one = commands.add_parser("run", help="run methods on problems and store what comes out")
    one.add_argument("--problems", default="all", help=f"comma-separated, of {', '.join(PROBLEMS)}")
    one.add_argument("--methods", default="all", help=f"comma-separated, of {', '.join(runner.METHODS)}")
    one.add_argument("--seeds", type=int, default=3, help="how many, from 0 (default 3)")
    one.add_argument("--seconds", type=float, default=120.0, help="of training, a run (default 120)")
    one.add_argument("--again", action="store_true", help="also what is stored for this code revision")
    one.add_argument("--results", type=Path, default=runner.RESULTS, help="folder of the store")
    one = commands.add_parser("report", help="write docs/benchmarks.md and docs/images/benchmarks.png")
    one.add_argument("--results", type=Path, default=runner.RESULTS, help="folder of the store")
    one.add_argument("--out", type=Path, default=report.DOCS, help="folder of benchmarks.md and images/benchmarks.png")
    one = commands.add_parser("micro", help="measure the ratios of the kernels and steps, and store them")
    one.add_argument("--cases", default="all", help=f"comma-separated, of {', '.join(micro.CASES)}")
    one.add_argument("--rounds", type=int, default=3, help="processes a side, interleaved (default 3)")
    one = commands.add_parser("check", help="fail when a ratio is 20 %% worse than the median of the stored ones")
    one.add_argument("--cases", default="all", help=f"comma-separated, of {', '.join(micro.CASES)}")
    one.add_argument("--rounds", type=int, default=3, help="processes a side, interleaved (default 3)")
    one.add_argument("--last", action="store_true", help="judge the newest stored ratios instead of measuring anew")
    commands.add_parser("kernels", help="time the kernels with pytest-benchmark")
    one = commands.add_parser("profile", help="write docs/profile.md: where the time of a step goes, per method")
    one.add_argument("--out", type=Path, default=report.DOCS, help="folder of profile.md")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Does what was typed; the exit code is 1 when a run failed or a ratio got worse."""
    asked = parser().parse_args(arguments)
    if asked.command == "envs":
        for family in chosen(asked.families, list(envs.FAMILIES), "family"):
            print(envs.python(family))
        return 0
    if asked.command == "run":
        problems = chosen(asked.problems, list(PROBLEMS), "problem")
        methods = chosen(asked.methods, list(runner.METHODS), "method")
        well = runner.run(problems, methods, range(asked.seeds), asked.seconds, again=asked.again, folder=asked.results)
        return 0 if well else 1
    if asked.command == "report":
        page, image = asked.out / "benchmarks.md", asked.out / "images" / "benchmarks.png"
        report.write(runner.stored(asked.results), page, image)
        print(f"{page}\n{image}")
        return 0
    if asked.command == "profile":
        command = [envs.python("jax"), "-m", "benchmarks.profile", (asked.out / "profile.md").resolve()]
        return subprocess.run(list(map(str, command)), env=envs.environment(), cwd=envs.HERE.parent).returncode
    if asked.command == "kernels":
        # The project's pytest settings are for its tests: none of them applies.
        options = ["-o", "addopts=", "-o", "filterwarnings=", "--import-mode=importlib", "--benchmark-columns"]
        columns = "min,median,iqr,rounds"
        command = [envs.python("jax"), "-m", "pytest", envs.HERE / "kernels", *options, columns]
        return subprocess.run(list(map(str, command)), env=envs.environment(), cwd=envs.HERE.parent).returncode
    cases = chosen(asked.cases, list(micro.CASES), "case")
    if asked.command == "micro":
        micro.store(micro.measure(cases, asked.rounds))
        return 0
    return micro.check(cases, asked.rounds, last=asked.last)


if __name__ == "__main__":
    sys.exit(main())
