"""What `against_pytorch_ood.py` compares, and how."""
