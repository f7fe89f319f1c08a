"""`sim schema`: what a scenario may hold, for editors."""

from __future__ import annotations

from sim.commands.command import app, emit
from sim.commands.exit import Exit


@app.command()
def schema() -> Exit:
    """Print the JSON Schema of scenarios, for editors."""
    from sim.scenario.schema import schema_text

    emit(schema_text())
    return Exit.FINE
