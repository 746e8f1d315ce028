"""A stand-in of AUTOMATIC1111's webui for tests, and scripts that inspect the real one."""
