"""`weighbridge up`: the whole platform on this machine, each service in a process of its own."""
