"""Several processes of one command, for peers that have no way of their own to use more than one core.

Run: ``python -m benchmarks.several COUNT COMMAND [ARGUMENT ...]``; SIGTERM and Ctrl-C end all.
"""

from __future__ import annotations

import asyncio
import sys

from weir.streams.ops.fleet import Fleet


def main() -> None:
    """Run them until told to stop."""
    count, command = int(sys.argv[1]), sys.argv[2:]
    sys.exit(asyncio.run(Fleet([command] * count).run()))


if __name__ == "__main__":
    main()
