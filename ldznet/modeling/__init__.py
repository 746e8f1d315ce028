"""The segmentation network in plain torch; knows nothing of hosts, files or images."""
