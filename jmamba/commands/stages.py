"""How far a command is: one line per stage, with its time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TimeElapsedColumn


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """Show each stage of a command on standard error.

    Yields:
      A function show(stage, done, total); a new stage ends the one before.
    """
    columns = (
        SpinnerColumn(finished_text="[green]✓[/]"),
        "{task.description}",
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                finish()
                tasks[stage] = bars.add_task(stage, total=None)
            # Of a stage in one piece only the end is known: its bar pulses.
            is_pulsing = total == 1 and done == 0
            bars.update(
                tasks[stage], completed=done, total=None if is_pulsing else total
            )

        def finish() -> None:
            for task in tasks.values():
                bars.update(task, total=1, completed=1)

        yield show
        finish()


def show_result(rendered, timings: dict[str, float], page: Path) -> None:
    """Print what came out, how long it took, and where its page is."""
    console = Console(highlight=False)
    console.print(rendered)
    seconds = sum(timings.values())
    console.print(f"\nComputed in {seconds:.1f} s. The page with all figures:")
    console.print(str(page.resolve()), soft_wrap=True)
