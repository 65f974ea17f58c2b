"""`trainbeacon demo`: a real distributed training job with Prometheus and Alertmanager around it.

    job.py (with model.py, text.py, faults.py)   the training script, one process a rank; the one to copy
    launch.py                                    starts the ranks and ends them
    pace.py                                      how many steps fit into the time, agreed by all ranks
    progress.py, terminal.py                     what the ranks are at, read from /metrics, and the display
    session.py                                   one demo from start to end

Prometheus, Alertmanager and the receiver are those of `stack/`, which the end-to-end tests use too.
"""
