"""Which version answers: the catalog, model control, polling, canaries and shadows."""
