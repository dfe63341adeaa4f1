"""The shell: the only part that knows pyln, the clock, threads and the network."""
