"""Python imports this at its start when the folder is in PYTHONPATH: it plants a fault in each rank of a comparison."""

import os
import sys

if "MEGALM_TEST_FAULT" in os.environ and "verify-rank" in sys.orig_argv:
    from tests.verify.faults import FAULTS

    FAULTS[os.environ["MEGALM_TEST_FAULT"]]().start()
