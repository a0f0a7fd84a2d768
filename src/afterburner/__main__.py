"""``python -m afterburner``: the same commands as ``afterburner``."""

import sys

from afterburner.cli import main

if __name__ == "__main__":
    sys.exit(main())
