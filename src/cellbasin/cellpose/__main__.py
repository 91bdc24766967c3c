"""`python -m cellbasin.cellpose` is the command `cellbasin-cellpose`."""

import sys

from cellbasin.cellpose import console_main

if __name__ == "__main__":
    sys.exit(console_main())
