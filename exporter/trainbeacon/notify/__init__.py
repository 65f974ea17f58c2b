"""The bridge from Alertmanager to the services that it has no receiver for.

    settings    receivers, from a YAML file; addresses with their secrets from files of their own
    webhook     what Alertmanager sends, read in one place
    wording     what is said of an alert: fault, place, times, links, order
    markup      how each kind of channel writes it, escaped and cut
    message     one text of several notifications, within a length
    delivery    an outbox a receiver: coalesces, keeps to the service's rate, remembers what arrived
    services    who takes a message: robots that need a signature, and all that Apprise knows
    counts      what is served on /metrics
    runbooks    the runbooks as pages
    service     the web application

Nothing is acknowledged before it is delivered: Alertmanager waits for the answer, and what could not be
delivered in time is refused with 503, upon which it tries again.
"""
