"""A short fine-tuning after the cut."""
