"""Runs the cases of the in-process mode in LiteLLM's environment, which is imported once.

One name of a case a line comes in, one line of JSON goes out: what it raised, or null.
"""

import asyncio
import json
import sys
import traceback

import in_process_cases
import in_process_stream_cases

TIMEOUT_S = 60


def main() -> None:
    """Run what is named until the input ends."""
    for line in sys.stdin:
        name = line.strip()
        case = getattr(in_process_cases, name, None) or getattr(in_process_stream_cases, name)
        failure = None
        try:
            asyncio.run(asyncio.wait_for(case(), TIMEOUT_S))
        except BaseException as error:  # noqa: BLE001 -- whatever it was, the test shows it, with the values
            shown = traceback.TracebackException.from_exception(error, capture_locals=True)
            failure = "".join(shown.format())
        print(json.dumps(failure), flush=True)  # noqa: T201 -- the test reads it


if __name__ == "__main__":
    main()
