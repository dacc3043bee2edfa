"""How much weights matter: a problem under Adam and under Gauss–Newton with each weighting, as a table.

    python scripts/weights.py helmholtz_soft --set scaled=false --set weight=1 --adam 10000 --gauss-newton 40 --seeds 3

starts from equal weights of all terms, under which the residual hides the boundary; over an hour on one core.
Relative errors are those of the parameters with the least loss on independent points, in the median over seeds; losses
there are under the weights that the terms were given, so that weightings are judged alike.
"""

import argparse
import dataclasses
import statistics

import jax

import ravine as rv
from ravine.words import Refusal, check_options, parse_setting, parse_weights

WEIGHTINGS = "given,annealing,balance,ntk,gradnorm,relobralo,self_adaptive,attention,lagrangian"
OF_GAUSS_NEWTON = {"every": 10}  # updates are frozen for ten of its steps, which are worth thousands of Adam's


def main() -> None:
    """Trains all combinations and prints a line for each weighting."""
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem")
    parser.add_argument("--set", action="append", default=[], metavar="name=value", dest="settings")
    parser.add_argument("--weights", default=WEIGHTINGS, help="names with commas; settings as in `ravine solve`")
    parser.add_argument("--adam", type=int, default=20_000, help="steps; 0 leaves it out")
    parser.add_argument("--gauss-newton", type=int, default=60, help="steps; 0 leaves it out")
    parser.add_argument("--seeds", type=int, default=1)
    chosen = parser.parse_args()
    try:
        options = check_options(chosen.problem, dict(parse_setting(text) for text in chosen.settings))
        weightings = {text: parse_weights(text) for text in chosen.weights.split(",")}
    except Refusal as refusal:
        parser.error(str(refusal))
    table(rv.problems.make(chosen.problem, **options), weightings, chosen.adam, chosen.gauss_newton, chosen.seeds)


def table(problem: rv.Problem, weightings: dict, adam: int, gauss_newton: int, seeds: int) -> None:
    """Prints errors, and their ratio to those with the given weights, as a table in Markdown."""
    phases = {
        "adam": rv.Phase(rv.adam(1e-3), steps=max(adam, 1)),
        "levenberg_marquardt": rv.Phase(rv.levenberg_marquardt(), steps=max(gauss_newton, 1)),
    }
    used = [name for name, steps in (("adam", adam), ("levenberg_marquardt", gauss_newton)) if steps]
    print(
        f"| weights | {' | '.join(f'{name}, {phases[name].steps} steps | times better | seconds' for name in used)} |"
    )
    print("|---" * (1 + 3 * len(used)) + "|", flush=True)
    first: dict[str, float] = {}
    for text, weights in weightings.items():
        cells = [text]
        for name in used:
            slow = name == "levenberg_marquardt" and hasattr(weights, "every")
            scheme = dataclasses.replace(weights, **OF_GAUSS_NEWTON) if slow else weights
            made = dataclasses.replace(problem, weights=scheme)
            runs = [rv.train(made, phases[name], key=jax.random.key(seed)) for seed in range(seeds)]
            error = statistics.median(run.error for run in runs)
            seconds = statistics.median(run.history["seconds"][-1] for run in runs)
            first.setdefault(name, error)
            cells += [f"{error:.2e}", f"{first[name] / error:.2g}", f"{seconds:.0f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
