"""Tables and questions of the command line."""

import subprocess
import sys

import pytest

from llm_proxy.cli.printing import Column, CommandFailed, confirm, installation_progress, print_table
from llm_proxy.stack.environments import Installed

COLUMNS: list[Column | str] = [
    Column("request id", unbroken=True),
    "model",
    Column("tokens", number=True),
    Column("USD", number=True),
]
ROW = (
    "0192f3c4-1111-7222-8333-444455556666",
    "a-model-of-a-very-long-name-indeed",
    "1,234,567",
    "0.000012345",
)


def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int) -> str:
    """The table on a terminal of that width."""
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(COLUMNS, [ROW, ROW])
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 90, 200])
def test_numbers_and_ids_are_never_broken_and_text_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """At any width they fit in."""
    text = printed(capsys, monkeypatch, width)
    assert max(len(line) for line in text.splitlines()) <= width
    for whole in (ROW[0], ROW[2], ROW[3]):
        assert whole in text.split()


def test_a_table_that_cannot_fit_becomes_a_block_a_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is truncated."""
    lines = printed(capsys, monkeypatch, 50).splitlines()
    assert lines[:4] == [
        f"request id  {ROW[0]}",
        f"model       {ROW[1]}",
        f"tokens      {ROW[2]}",
        f"USD         {ROW[3]}",
    ]
    assert lines[4] == ""
    assert len(lines) == 9


def test_brackets_in_a_name_are_not_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is printed as it is."""
    monkeypatch.setenv("COLUMNS", "80")
    print_table(["name"], [["[red]x[/red] :smile:"]])
    assert "[red]x[/red] :smile:" in capsys.readouterr().out


def test_without_a_terminal_no_question_is_asked() -> None:
    """`--yes` is required."""
    confirm("Delete?", yes=True)
    with pytest.raises(CommandFailed, match="--yes"):
        confirm("Delete?", yes=False)


def test_the_gateway_runs_without_what_draws_tables() -> None:
    """Which would stay in the memory of every worker."""
    loaded = "import sys, llm_proxy.cli.serve; print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_installation_without_a_terminal_prints_a_line_every_ten_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """How many packages are there, and how much was written: a log shows that it goes on."""
    times_s = iter((100.0, 109.9, 110.0, 121.0))
    with installation_progress(times_s.__next__) as report:
        for packages, megabytes in ((0, 0), (0, 80), (0, 95), (7, 380)):
            report(Installed("sidecar", packages, 145, megabytes * 10**6))
    assert capsys.readouterr().err.splitlines() == [
        "installing the sidecar's environment, once: 145 packages",
        "  0 of 145 packages, 95 MB written, 10 s",
        "  7 of 145 packages, 380 MB written, 21 s",
    ]
