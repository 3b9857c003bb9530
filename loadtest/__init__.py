"""Load on a running service: locust users, and how to run them without locust's web page.

``headless`` starts locust in a process of its own and reads what it measured; ``locustfile`` is
what runs there, and can be run by hand too. README.md says how to read the figures.
"""
