"""What runs a worker: engines behind one small protocol, a process of this machine or a container."""
