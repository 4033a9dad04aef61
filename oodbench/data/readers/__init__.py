"""Readers of the kinds of data sets: folders, lists, NumPy archives, torchvision formats."""
