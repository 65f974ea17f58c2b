"""The HTTP server of `/metrics`: connections, passwords, certificates, pages."""
