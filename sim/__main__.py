"""`python -m sim` and `sim`: a command line in a process of its own."""

from sim.commands import process


def main() -> None:
    """Run the command line of this process and end it with its code; interruptible from its first moment."""
    process.own()
    from sim.commands.cli import main as run

    process.leave(run())


if __name__ == "__main__":
    main()
