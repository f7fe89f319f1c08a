"""`python -m sim`: the command line."""

import sys

from sim.commands.cli import main

sys.exit(main())
