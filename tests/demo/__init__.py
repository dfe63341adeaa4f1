"""`make demo`: an operator's tour, on real nodes where bitcoind and lightningd are on PATH, else on simulated."""
