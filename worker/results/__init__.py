"""From the child's output folder to the artifact store and other destinations."""
