"""One thin module a protocol: which bytes mean what. All of them feed the same classifiers."""
