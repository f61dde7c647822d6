"""`PYTHONPATH=tests python -m traces`: judges the loop guard on labelled runs; prints Markdown."""

import argparse

from traces.judge import HELD_OUT_SEED, Figures, figures, labelled


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-kind", type=int, default=24, help="labelled runs of each kind of loop")
    parser.add_argument("--labelled-healthy", type=int, default=240)
    parser.add_argument("--healthy", type=int, default=3000, help="further healthy runs, for false stops")
    parser.add_argument("--held-out", action="store_true", help="only seeds and agents that were held out")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    first = HELD_OUT_SEED if options.held_out else 0
    jobs = labelled(options.per_kind, options.labelled_healthy, first)
    known = figures(jobs, held_out=options.held_out, workers=options.workers)
    print("\n".join((*known.kinds_table(), "", *known.signals_table(), "")))  # noqa: T201 -- a command
    _print_false("labelled healthy runs", known)
    many = [(first + 100_000 + number, None) for number in range(options.healthy)]
    _print_false(
        "healthy runs", figures(many, held_out=options.held_out, parsed=False, workers=options.workers)
    )


def _print_false(what: str, found: Figures) -> None:
    wrong = dict(found.wrong)
    print(  # noqa: T201 -- a command
        f"{found.false_stops} of {found.healthy} {what} stopped ({found.healthy_turns} calls); wrong {wrong},"
        f" seeds {found.false_seeds[:20]}"
    )


if __name__ == "__main__":
    main()
