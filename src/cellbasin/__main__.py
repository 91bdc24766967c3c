"""`python -m cellbasin` is the command `cellbasin`."""

import sys

from cellbasin.cli import main

if __name__ == "__main__":
    sys.exit(main())
