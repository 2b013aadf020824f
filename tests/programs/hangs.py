"""Prints an error, and then does nothing for a minute."""

import sys
import time

if __name__ == "__main__":
    print("stuck", file=sys.stderr, flush=True)
    time.sleep(60)
