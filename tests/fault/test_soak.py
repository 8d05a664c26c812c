"""Everything at once, for a while: `make soak` plays it for SOAK_SECONDS, the check for less.

SOAK_SEED: the same players' choices again (not the same moments).
"""

import os
import secrets
import sys
import time

import pytest

from soak import Soak

SECONDS = int(os.environ.get("SOAK_SECONDS", "24"))


@pytest.mark.timeout(2 * SECONDS + 600)
def test_nothing_is_lost_in_a_storm(tmp_path):
    seed = os.environ.get("SOAK_SEED") or secrets.token_hex(4)
    soak = Soak(tmp_path, seed)
    with soak.service:
        soak.begin()
        soak.storm(SECONDS * 2 // 3)
        soak.end()
        before = soak.sizes()
        soak.begin()
        time.sleep(SECONDS / 3)
        soak.end()
        soak.check_growth(before, soak.sizes())
        soak.audit()
        print(f"\nseed {seed}, {SECONDS} s\n{soak.ledger.report()}", file=sys.stderr)
        assert not soak.ledger.faults, f"seed {seed}:\n" + "\n".join(soak.ledger.faults)
        for name in ("chat: done", "response: completed", "twins", "batch", "stranger refused"):
            assert soak.ledger.counts[name] > 0, f"no {name}"
        assert soak.ledger.deaths
