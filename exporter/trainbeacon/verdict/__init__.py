"""What is wrong with a run, said in one sentence: the same in `top`, in the report and in the alert.

facts.py        what is known of runs, ranks, GPUs, nodes and sources at one moment, wherever it came from
alerts.py       the words of each condition: summary, severity and action of the alert rule of its name
limits.py       the limits of the alert rules, and what a run set instead
conditions.py   the conditions that a moment shows by itself, each named after its alert
judge.py        findings, the worst first; the verdict is the first of them
"""
