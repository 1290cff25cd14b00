"""Synthetic data whose true features are known, and what SAEs find of them."""
