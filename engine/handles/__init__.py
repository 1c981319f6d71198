"""One module per kind of store: method -> message -> typed result."""
