"""`trainbeacon doctor`: follows a number from the trainer to the pager and says where it stops.

A check is a function that yields what is amiss; what it does not mention is in order. It changes nothing,
except that `--test-alert` sends one alert.
"""
