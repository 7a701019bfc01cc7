"""`python -m convbert`."""

import sys

from convbert.cli import main

if __name__ == "__main__":
    sys.exit(main())
