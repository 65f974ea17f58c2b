"""A fleet of training jobs without torch and without GPUs, for dashboards, rules and measurements.

The numbers are a model's (`workload`, `course`, `run`, `gpus`, `hosts`); the way that they take is the
real one: black boxes, reader, collectors, registry, exposition and server. `scenarios` are the faults,
`fleet` puts runs on nodes, `history` writes a day at once, `session` is the command.
"""
