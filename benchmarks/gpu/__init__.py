"""What `benchmarks/gpu.sh` runs, in the order of a run: `__main__` starts the `parts`, each in a process of its own;
they time programs in `rounds`, beside those of `pytorch`; `report` makes a page of their lines."""
