"""``python -m recvae``: the command line."""

import sys

from recvae.cli import main

if __name__ == "__main__":  # a process that benchmark spawns imports this module too
    sys.exit(main())
