"""One file a dashboard. Each holds one `DASHBOARD`; the file's name gives its uid and its JSON file."""
