"""`python -m pruning`."""

import sys

from pruning.cli.parser import main

sys.exit(main())
