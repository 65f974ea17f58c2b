"""The model behind the simulated fleet: workloads, runs, ranks, GPUs, hosts."""
