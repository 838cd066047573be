"""What layers write to the residual stream, and which parameters make it."""
