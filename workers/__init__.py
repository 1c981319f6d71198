"""The other side of the pipe: supervisor, worker processes, and the actors that own the files."""
