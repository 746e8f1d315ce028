"""PhraseCut, AIGI and folders of images with masks."""
