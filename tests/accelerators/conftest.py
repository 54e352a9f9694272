"""Leaves out what is no test: it needs PyTorch, and the folder of its network on the path."""

collect_ignore = ["gpu_peers.py"]
