"""The order in which waiting jobs start, and what it means for one of them."""
