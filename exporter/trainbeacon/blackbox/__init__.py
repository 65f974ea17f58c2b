"""The black box: one memory-mapped file a rank, the only hand-over from training to exporter.

`format` is the layout, `writer` the training process's side, `reader` the exporter's side and
`directory` the folder that they meet in. The last state outlives the process that wrote it.
"""
