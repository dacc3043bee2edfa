"""How much weights matter: a problem under one method after the other with each weighting, as a table.

    python scripts/weights.py helmholtz_soft --set scaled=false --set weight=1 \\
        --methods "adam:10000,levenberg_marquardt:400" --seeds 3

starts from equal weights of all terms, under which the residual hides the boundary; hours on one core. Each entry of
`--methods` is trained from the start, not after the one before. Relative errors are those of the parameters with the
least loss on independent points, in the median over seeds; losses there are under the weights that the terms were
given, so that weightings are judged alike.
"""

import argparse
import dataclasses
import statistics

import jax

import ravine as rv
from ravine.cli.settings import prepare
from ravine.optim.presets import METHODS, called, method
from ravine.words import Refusal, Step, check_method, check_options, parse_phases, parse_setting, parse_weights

WEIGHTINGS = "given,annealing,balance,ntk,gradnorm,relobralo,self_adaptive,attention,lagrangian"
OF_SECOND_ORDER = {"every": 10}  # updates are frozen for ten of its steps, which are worth thousands of Adam's


def main() -> None:
    """Trains all combinations and prints a line for each weighting."""
    jax.config.update("jax_enable_x64", True)
    prepare()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem")
    parser.add_argument("--set", action="append", default=[], metavar="name=value", dest="settings")
    parser.add_argument("--weights", default=WEIGHTINGS, help="names with commas; settings as in `ravine solve`")
    parser.add_argument("--methods", default="adam:10000,levenberg_marquardt:40", help="as --phases of `ravine solve`")
    parser.add_argument("--seeds", type=int, default=1)
    chosen = parser.parse_args()
    try:
        options = check_options(chosen.problem, dict(parse_setting(text) for text in chosen.settings))
        weightings = {text: parse_weights(text) for text in chosen.weights.split(",")}
        entries = list(parse_phases(chosen.methods))
        for entry in entries:
            check_method(entry.method)
            if not entry.limited:
                raise Refusal(f"--methods: {entry.method!r} has no limit: {entry.method}:500 or {entry.method}:60s.")
    except Refusal as refusal:
        parser.error(str(refusal))
    table(rv.problems.make(chosen.problem, **options), weightings, entries, chosen.seeds)


def table(problem: rv.Problem, weightings: dict, entries: list[Step], seeds: int) -> None:
    """Prints errors, and their ratio to those with the given weights, as a table in Markdown."""
    heads = [f"{entry.method}, {entry.steps or entry.seconds} {'steps' if entry.steps else 's'}" for entry in entries]
    print(f"| weights | {' | '.join(f'{head} | times better | seconds' for head in heads)} |")
    print("|---" * (1 + 3 * len(entries)) + "|", flush=True)
    first: dict[int, float] = {}
    for text, weights in weightings.items():
        cells = [text]
        for number, entry in enumerate(entries):
            slow = "curvature" in METHODS[called(entry.method)[0]].needs and hasattr(weights, "every")
            scheme = dataclasses.replace(weights, **OF_SECOND_ORDER) if slow else weights
            made = dataclasses.replace(problem, weights=scheme)
            phase = rv.Phase(method(entry.method), steps=entry.steps, seconds=entry.seconds)
            runs = [rv.train(made, phase, key=jax.random.key(seed)) for seed in range(seeds)]
            error = statistics.median(run.error for run in runs)
            seconds = statistics.median(run.history["seconds"][-1] for run in runs)
            first.setdefault(number, error)
            cells += [f"{error:.2e}", f"{first[number] / error:.2g}", f"{seconds:.0f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
