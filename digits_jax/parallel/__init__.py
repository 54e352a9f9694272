"""Where runs are: a mesh of devices, several processes, round robin on CPU cores."""
