"""`trainbeacon up`: Prometheus and Alertmanager for every run of this user on this machine.

state.py        the folder that it keeps, the lock of the one that runs, and what that says of itself
supervisor.py   the process that runs: starts servers, finds runs, sees children die, ends everything
targets.py      which exporters are scraped
joined.py       what is up already, for whoever joins it
grafana.py      Grafana, where it is on the PATH
client.py       what the commands up, down and status do
"""
