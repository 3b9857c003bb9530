"""Who may use the service, and how: keys, cross-origin rules, TLS, a port for the metrics."""
