"""What a node has: processors, memory, disk and GPUs, read live and with the container's limits first."""
