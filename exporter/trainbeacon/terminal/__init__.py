"""`trainbeacon top`: runs, ranks and GPUs at a glance, from black boxes, exporters or Prometheus.

wanted.py      which series are read, and what they become
table.py       numbers of many series, look after look, at little cost
facts_of.py    facts about runs from two looks at a source
sources/       black boxes of this machine, exporters, Prometheus
watch.py       looks at all sources in the background, and puts the facts together
view.py        what is shown of the facts: columns, order, cells
plain.py       as plain text, for `--once`
screen/        as a screen with keys (textual)
"""
