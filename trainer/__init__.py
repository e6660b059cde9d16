"""What runs: model, loop, checkpoints, signals, the command line.

OpenMP and MKL read their environment once, when torch is first imported, so it is set here, before any module of this
package can import it. Waiting threads sleep instead of spinning: with one busy neighbour on a two-core machine the
same step took 303 ms spinning and 43 ms sleeping. MKL may not change its thread count by itself, which would change
bits.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MKL_DYNAMIC", "FALSE")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
