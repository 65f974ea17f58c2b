"""Adapters: what a framework says of its training, in the calls of a beacon. One file a framework.

An adapter starts the run by itself where the script has not, records on every rank, serves only what the
framework knows and only what is true, and ends the run when the framework says so. What each of them
records, and cannot, is in docs/integrations.md. Nothing here is imported before a script asks for it.
"""
