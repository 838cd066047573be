"""Running a model layer by layer, wherever its weights lie, and several variants of it at once."""
