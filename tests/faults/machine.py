"""What the machine must have for a part: the tool, or why it is missing and how to get it."""

import os
import shutil
import subprocess
import sys

PACKAGES = {"strace": "strace", "mkfs.xfs": "xfsprogs", "mkfs.ext4": "e2fsprogs", "mount": "mount"}


def need(*tools: str) -> str | None:
    """None where all tools are here, else what to do. Under `make faults` (FAULTS_INSTALL=1), root gets them by apt."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [tool for tool in tools if shutil.which(tool, path=path) is None]
    if missing and os.environ.get("FAULTS_INSTALL") and os.geteuid() == 0 and shutil.which("apt-get"):
        packages = sorted({PACKAGES[tool] for tool in missing})
        print(f"installing {' '.join(packages)} by apt-get", file=sys.stderr, flush=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", *packages], stdout=sys.stderr, check=False)
        missing = [tool for tool in missing if shutil.which(tool, path=path) is None]
    if not missing:
        return None
    return (
        f"missing: {', '.join(missing)}; on Debian: apt-get install {' '.join(PACKAGES[t] for t in missing)}"
    )
