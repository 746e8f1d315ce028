"""A stand-in of AUTOMATIC1111's webui, for the tests of hosts/a1111.py, and what looks into the real one."""
