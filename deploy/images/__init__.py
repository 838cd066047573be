"""The two images, built, listed, and tried: one job goes through containers that were started from them."""
