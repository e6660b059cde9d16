"""What committing the state costs: `python bench/state.py [--commits 1000] [--kib 200] ...`, as bench/commits.py says."""

import sys
from pathlib import Path

if __name__ == "__main__":
    from commits import main

    sys.exit(main())

# A script beside this one wants the package that this file's name hides.
__path__ = [str(Path(__file__).resolve().parents[1] / "state")]
